"""Pictures of latents of tokens: the images in which each is largest, and where it fires."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from mae.objectives.sae.model import TokenSparseAutoencoder
from mae.pictures.drawing import displayable, strips
from mae.pictures.latents import coloured, lit

LATENTS = 8
"""number of latents on a panel"""

IMAGES = 5
"""images of each"""

MOST_COMMON = 0.5
"""share of the patches, above which a latent says too little about a place to be shown"""


class TopImages:
    """For each of n latents the m images in which it is largest, and where; in constant memory."""

    def __init__(self, latent_dim: int, count: int, grid: tuple[int, int]) -> None:
        """`count`: m; `grid`: rows and columns of patches."""
        self.grid = grid
        self.values = torch.full((latent_dim, count), -torch.inf)
        """[n m] largest number of the latent in each image, falling; -inf: no image yet"""
        self.images = torch.full((latent_dim, count), -1, dtype=torch.int64)
        """[n m] number of each image; -1: none"""
        self.maps = torch.zeros(latent_dim, count, grid[0] * grid[1])
        """[n m t] the latent's numbers in each image"""
        self.uses = torch.zeros(latent_dim, dtype=torch.float64)
        """[n] patches in which the latent is not zero"""
        self.patches = 0

    def add(self, numbers: Int[Tensor, " b"], latents: Float[Tensor, "b t n"]) -> None:
        """Add images by their `numbers`."""
        latents = latents.detach().float().cpu()
        self.uses += (latents > 0).sum(dim=(0, 1))
        self.patches += latents.shape[0] * latents.shape[1]
        by_latent = latents.permute(2, 0, 1)  # [n b t]
        values = torch.cat([self.values, by_latent.amax(dim=2)], dim=1)
        images = torch.cat([self.images, numbers.cpu().expand(len(values), -1)], dim=1)
        maps = torch.cat([self.maps, by_latent], dim=1)
        found = values.topk(self.values.shape[1], dim=1)
        self.values, self.images = found.values, images.gather(1, found.indices)
        self.maps = maps.gather(1, found.indices[:, :, None].expand(-1, -1, maps.shape[2]))

    def chosen(self, count: int) -> list[int]:
        """Latents to show: those with the largest numbers that fire in few enough patches."""
        is_common = self.uses > MOST_COMMON * self.patches
        largest = torch.where(is_common | (self.uses == 0), -torch.inf, self.values[:, 0])
        found = largest.topk(min(count, len(largest)))
        return found.indices[found.values.isfinite()].tolist()


class LatentRow(NamedTuple):
    """A latent, the images in which it is largest, and its numbers there."""

    latent: int
    share: float
    """share of all patches in which it is not zero"""
    images: Sequence[int]
    """numbers of the images, the largest first"""
    maps: Float[Tensor, "m rows columns"]


def latent_rows(top: TopImages, latents: Sequence[int]) -> list[LatentRow]:
    """Rows of these latents, with the images in which they fire."""
    rows = []
    for latent in latents:
        fires = top.values[latent] > 0
        maps = top.maps[latent][fires].unflatten(1, top.grid)
        share = (top.uses[latent] / max(top.patches, 1)).item()
        rows.append(LatentRow(latent, share, top.images[latent][fires].tolist(), maps))
    return rows


@torch.no_grad()
def latents_panel(model: TokenSparseAutoencoder, images: Tensor, title: str) -> Image.Image:
    """Row for each of some latents: the images in which it is largest, each beside where it fires.

    Raises UserError where the tokens are no grid of patches.
    """
    latents = model.latents(images)
    top = TopImages(latents.shape[2], min(IMAGES, len(images)), model.grid(latents.shape[1]))
    top.add(torch.arange(len(images)), latents)
    shown = displayable(images).cpu()
    rows = {}
    for row in latent_rows(top, top.chosen(LATENTS)):
        pictures = shown[row.images]
        pairs = torch.stack([coloured(pictures), lit(pictures, row.maps)], dim=1).flatten(0, 1)
        rows[f"latent {row.latent}: in {row.share:.1%} of the patches"] = pairs
    if not rows:
        rows = {"no latent fires in a part of these images": shown[:1]}
    return strips(f"{title}; images and where the latent fires, each scaled to its maximum", rows)
