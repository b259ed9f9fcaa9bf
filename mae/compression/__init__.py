"""Compressed images: codes of an autoencoder, range-coded into files."""
