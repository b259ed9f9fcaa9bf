"""Sparse autoencoder on the patch tokens of a frozen encoder."""
