"""Implementation of the β-VAE: that of the variational autoencoder."""

from mae.objectives.vae.implementation import IMPLEMENTATION

__all__ = ["IMPLEMENTATION"]
