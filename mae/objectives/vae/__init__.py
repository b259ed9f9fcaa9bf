"""Variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114)."""
