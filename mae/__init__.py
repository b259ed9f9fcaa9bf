"""Masked Autoencoder pretraining of Vision Transformers (He et al. 2021, arXiv:2111.06377)."""

__version__ = "0.1.0"
