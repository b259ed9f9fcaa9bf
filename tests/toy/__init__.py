"""Toy objective that is not part of the package: a small variational autoencoder."""
