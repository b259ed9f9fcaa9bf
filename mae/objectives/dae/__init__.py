"""Denoising autoencoder (Vincent et al. 2008; residual output: Zhang et al. 2017)."""
