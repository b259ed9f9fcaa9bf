"""Sparse autoencoder on images: k largest latents, or an L1 penalty."""
