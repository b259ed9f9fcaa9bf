"""Block of a sparse autoencoder's panel: each image's most active latents, decoded one by one."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor

from mae.objectives.sparse.model import SparseAutoencoder
from mae.pictures.drawing import contrast, displayable, strips

IMAGES = 4
"""number of images whose parts are drawn"""

PARTS = 7
"""maximum number of parts of an image"""


class Parts(NamedTuple):
    """Active parts of images, the most active first."""

    latents: Int[Tensor, "b n"]
    """index of each part's latent; of a map, that of the channel"""
    effects: Float[Tensor, "b n c h w"]
    """image of the latent alone less that of no latent, in [-1, 1]"""


def active_parts(model: SparseAutoencoder, images: Shaped[Tensor, "b c h w"]) -> Parts:
    """Effects of single latents, those of the largest size in each image.

    Where the latents are a map, a channel is kept at all positions.
    """
    latents = model.latents(images)
    size = latents.abs().flatten(2).sum(2) if latents.ndim > 2 else latents.abs()
    chosen = size.topk(min(PARTS, size.shape[1]), dim=1).indices
    nothing = model.decode(torch.zeros_like(latents[:1]))
    effects = []
    for number in range(chosen.shape[1]):
        index = chosen[:, number].view(-1, *[1] * (latents.ndim - 1))
        index = index.expand(-1, 1, *latents.shape[2:])
        alone = torch.zeros_like(latents).scatter(1, index, latents.gather(1, index))
        effects.append(model.decode(alone) - nothing)
    return Parts(chosen, torch.stack(effects, dim=1))


def parts_block(model: SparseAutoencoder, images: Tensor) -> Image.Image:
    """Row for each of the first images: the image, then its active parts."""
    shown = images[:IMAGES]
    parts = active_parts(model, shown)
    grey = (parts.effects.float() / contrast(shown)[:, None] + 0.5).clamp(0, 1)
    rows = {}
    for number, picture in enumerate(displayable(shown)):
        names = ", ".join(map(str, parts.latents[number].tolist()))
        rows[f"image {number + 1}: latents {names}"] = torch.cat([picture[None], grey[number]])
    title = "images and the effect of their most active latents, each alone; grey: no effect"
    return strips(title, rows)
