"""Undercomplete autoencoder (Hinton and Salakhutdinov 2006)."""
