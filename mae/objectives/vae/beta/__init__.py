"""β-VAE (Higgins et al. 2017): a variational autoencoder with a heavier prior."""
