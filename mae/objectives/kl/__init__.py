"""Autoencoder of latent diffusion (Rombach et al. 2021, arXiv:2112.10752, section 3.1)."""
