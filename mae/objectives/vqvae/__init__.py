"""Vector-quantised autoencoder (van den Oord et al. 2017, arXiv:1711.00937)."""
