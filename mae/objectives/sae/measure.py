"""Explained variance of tokens: the sparse autoencoder's beside that of PCA and top-k PCA."""

import torch
from jaxtyping import Float
from torch import Tensor

from mae.evaluation.token_pca import Sums, TokenPca, fit_token_pca, variance_sums
from mae.objectives.autoencoders.baselines import training_pixels
from mae.objectives.implementation import HeldOut
from mae.objectives.sae.model import TokenSparseAutoencoder

BATCH = 32
"""images that PCA is fitted on at a time"""


@torch.no_grad()
def training_pca(objective: TokenSparseAutoencoder, held_out: HeldOut) -> TokenPca:
    """PCA of the tokens of some training images.

    All processes call it together and get the same.  Raises as `training_pixels`.
    """
    pixels = training_pixels(held_out, objective.img_size)
    batches = (images.to(held_out.device) for images in pixels.split(BATCH))
    return fit_token_pca(rows_of(objective, objective.tokens(images)) for images in batches)


def rows_of(objective: TokenSparseAutoencoder, tokens: Float[Tensor, "b t d"]) -> Tensor:
    """Tokens in the units of the dictionary, float64 [n d] on the CPU."""
    return objective.dictionary.normalise(tokens).flatten(0, 1).cpu().double()


@torch.no_grad()
def token_sums(objective: TokenSparseAutoencoder, pca: TokenPca, images: Tensor) -> Sums:
    """Sums over the tokens of a batch, for `variance_figures`."""
    tokens = objective.tokens(images)
    latents = objective.dictionary.latents(tokens)
    again = objective.dictionary.decode(latents)
    rows, made = rows_of(objective, tokens), rows_of(objective, again)
    return variance_sums(pca, rows, made, latents.flatten(0, 1) > 0)
