"""Adversarial autoencoder (Makhzani et al. 2015)."""
