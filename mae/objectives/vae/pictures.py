"""Blocks of a variational autoencoder's panel: samples, and images along single latents."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from mae.base.tensor_hashing import mix_tensor
from mae.objectives.autoencoders.backbones import encode_map
from mae.objectives.vae.bottleneck import gaussian_kl
from mae.objectives.vae.model import VariationalAutoencoder
from mae.pictures.drawing import displayable_alone, strips

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""values of a latent along its row"""

LATENTS = 5
"""maximum number of rows of latents"""

SAMPLES = 8
"""maximum number of samples in a row"""


class Traversal(NamedTuple):
    """Images as one latent takes other values."""

    latent: int
    """its index; of a map, that of the channel"""
    nats: float
    """its KL divergence, mean over the images; of a map, summed over the positions"""
    pictures: Float[Tensor, "n c h w"]


def traversals(model: VariationalAutoencoder, images: Tensor) -> list[Traversal]:
    """Traversals of the latents that say most about `images`, from the first image's latents.

    Where the latents are a map, a channel takes the value at all positions.
    """
    features = encode_map(model.encoder, model.normalize(images))
    mean, log_variance = model.bottleneck.posterior(features)
    nats = gaussian_kl(mean, log_variance).unflatten(1, (-1, 1)).flatten(2).sum(dim=2).mean(dim=0)
    found = []
    for latent in nats.argsort(descending=True, stable=True)[:LATENTS].tolist():
        latents = mean[:1].repeat(len(VALUES), *[1] * (mean.ndim - 1))
        values = torch.tensor(VALUES, dtype=mean.dtype, device=mean.device)
        latents[:, latent] = values.view(-1, *[1] * (mean.ndim - 2))
        found.append(Traversal(latent, nats[latent].item(), model.decode(latents)))
    return found


def sample_block(
    model: VariationalAutoencoder, images: Tensor, seeds: Int[Tensor, " b"]
) -> Image.Image:
    """Two rows of samples from the prior."""
    first = seeds[:SAMPLES]
    rows = [displayable_alone(model.sample(one), images) for one in (first, mix_tensor(first))]
    return strips("samples: latents drawn from the prior", {"": rows[0], " ": rows[1]})


def traversal_block(model: VariationalAutoencoder, images: Tensor) -> Image.Image:
    """Row of images for each of the most active latents."""
    rows: Mapping[str, Tensor] = {
        f"latent {one.latent}, {one.nats:.2f} nats": displayable_alone(one.pictures, images)
        for one in traversals(model, images)
    }
    title = "first image, one latent from -3 to +3; most active latents first"
    return strips(title, rows)
