"""A third objective, which the package does not know: a small variational autoencoder."""
