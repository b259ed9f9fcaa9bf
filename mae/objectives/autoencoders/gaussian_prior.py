"""Autoencoders with a standard normal prior: samples, and images along single latents."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from mae.base.tensor_hashing import mix_tensor
from mae.objectives.autoencoders.model import AnyBottleneck, Autoencoder
from mae.pictures.drawing import displayable_alone, strips

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""values of a latent along its row"""

LATENTS = 5
"""maximum number of rows of latents"""

SAMPLES = 8
"""maximum number of samples in a row"""


class GaussianPriorAutoencoder(Autoencoder[AnyBottleneck]):
    """Autoencoder whose latents follow N(0, 1); its bottleneck draws one number per latent."""

    def shaped(self, latents: Float[Tensor, "b n"]) -> Tensor:
        """Latents in a row → the input of `decode`."""
        shape = self.from_latent.shape
        if self.from_latent.is_vector:
            return latents
        return latents.unflatten(1, (-1, shape.rows, shape.columns))

    @torch.no_grad()
    def sample(
        self, seeds: Int[Tensor, " b"], temperature: float = 1.0
    ) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1], one per seed: latents drawn from the prior, decoded.

        `temperature`: factor of the prior's standard deviation.
        """
        noise = self.bottleneck.draw(seeds)
        assert noise is not None
        noise = noise.to(self.from_latent.layer.weight.dtype)
        return self.decode(self.shaped(temperature * noise))


class Traversal(NamedTuple):
    """Images as one latent takes other values."""

    latent: int
    """its index; of a map, that of the channel"""
    score: float
    """its rank among the latents, by a measure of the autoencoder's own"""
    pictures: Float[Tensor, "n c h w"]


def traversals(model: Autoencoder, images: Tensor, scores: Float[Tensor, " n"]) -> list[Traversal]:
    """Traversals of the latents with the highest `scores`, from the first image's latents.

    Those with a score of -inf have none.
    Where the latents are a map, a channel takes the value at all positions.
    """
    own = model.latents(images[:1])
    found = []
    order = scores.argsort(descending=True, stable=True)[:LATENTS]
    for latent in order[scores[order] > -torch.inf].tolist():
        latents = own.repeat(len(VALUES), *[1] * (own.ndim - 1))
        values = torch.tensor(VALUES, dtype=own.dtype, device=own.device)
        latents[:, latent] = values.view(-1, *[1] * (own.ndim - 2))
        found.append(Traversal(latent, scores[latent].item(), model.decode(latents)))
    return found


def sample_block(
    model: GaussianPriorAutoencoder, images: Tensor, seeds: Int[Tensor, " b"]
) -> Image.Image:
    """Two rows of samples from the prior."""
    first = seeds[:SAMPLES]
    rows = [displayable_alone(model.sample(one), images) for one in (first, mix_tensor(first))]
    return strips("samples: latents drawn from the prior", {"": rows[0], " ": rows[1]})


def traversal_block(
    model: Autoencoder, images: Tensor, scores: Float[Tensor, " n"], caption: str
) -> Image.Image:
    """Row of images for each of the latents with the highest `scores`.

    `caption`: format of a score, such as "{:.2f} nats".
    """
    rows: Mapping[str, Tensor] = {
        f"latent {one.latent}, {caption.format(one.score)}": displayable_alone(one.pictures, images)
        for one in traversals(model, images, scores)
    }
    title = "first image, one latent from -3 to +3; most active latents first"
    return strips(title, rows)
