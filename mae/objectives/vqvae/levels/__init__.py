"""Vector-quantised autoencoder with two levels of codes (Razavi et al. 2019, arXiv:1906.00446)."""
