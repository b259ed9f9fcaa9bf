"""Blind spots: hidden pixels, what stands in their place, and passes that hide every pixel once."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mae.base.tensor_hashing import uniforms

Replacement = Literal["interpolation", "neighbour"]

PASS_GRID = 4
"""side of the grid of `grid_masks`: 16 passes, as in Batson and Royer 2019 (section 4)"""

KERNEL = ((0.5, 1.0, 0.5), (1.0, 0.0, 1.0), (0.5, 1.0, 0.5))
"""weights of the neighbours in an interpolated pixel: those of the code of Noise2Self"""


class Spots(NamedTuple):
    """Hidden pixels of each image, as indices into its pixels in row-major order."""

    hidden: Int[Tensor, "b n"]
    sources: Int[Tensor, "b n"]
    """a random other pixel near each, for the replacement "neighbour" """


class BlindSpots(NamedTuple):
    """Settings of the hidden pixels: one in each square of `grid` pixels, at a random place.

    Stratified sampling (Krull et al. 2019, section 3.4).
    """

    grid: int
    replacement: Replacement
    radius: int
    """neighbours are at most so many pixels away, in rows and columns"""

    def draw(self, seeds: Int[Tensor, " b"], size: tuple[int, int]) -> Spots:
        """Hidden pixels of images of `size` (height, width), a function of each sample's seed.

        Squares that the border cuts hide a pixel of their part inside.
        """
        height, width = size
        rows = torch.arange(0, height, self.grid, device=seeds.device)
        columns = torch.arange(0, width, self.grid, device=seeds.device)
        count = len(rows) * len(columns)
        u, v, w = uniforms(seeds, 3 * count).view(-1, 3, len(rows), len(columns)).unbind(1)
        y = rows[:, None] + (u * (height - rows).clamp(max=self.grid)[:, None]).long()
        x = columns + (v * (width - columns).clamp(max=self.grid)).long()
        side = 2 * self.radius + 1
        tall, wide = min(side, height), min(side, width)
        top = (y - self.radius).clamp(min=0, max=height - tall)
        left = (x - self.radius).clamp(min=0, max=width - wide)
        # One of the others in the window: places from that of the pixel itself on are one later.
        own = (y - top) * wide + x - left
        place = (w * (tall * wide - 1)).long()
        place = place + (place >= own)
        source = (top + place // wide) * width + left + place % wide
        return Spots((y * width + x).flatten(1), source.flatten(1))

    def hide(self, images: Float[Tensor, "b c h w"], spots: Spots) -> Float[Tensor, "b c h w"]:
        """Images with all channels of the hidden pixels replaced."""
        flat = images.flatten(2)
        where = for_channels(spots.hidden, images)
        if self.replacement == "neighbour":
            values = flat.gather(2, for_channels(spots.sources, images))
        else:
            hidden = torch.zeros_like(images[:, :1]).flatten(2)
            hidden = hidden.scatter(2, spots.hidden[:, None], 1.0).view_as(images[:, :1])
            values = interpolated(images, 1 - hidden).flatten(2).gather(2, where)
        return flat.scatter(2, where, values).view_as(images)


def for_channels(
    indices: Int[Tensor, "b n"], images: Float[Tensor, "b c h w"]
) -> Int[Tensor, "b c n"]:
    """The same indices for all channels."""
    return indices[:, None].expand(-1, images.shape[1], -1)


def interpolated(
    images: Float[Tensor, "b c h w"], visible: Float[Tensor, "#b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Weighted mean of each pixel's visible neighbours (1), without itself; 0 where none is."""
    channels = images.shape[1]
    kernel = torch.tensor(KERNEL, dtype=images.dtype, device=images.device)
    around = F.conv2d(
        images * visible, kernel.expand(channels, 1, 3, 3), padding=1, groups=channels
    )
    weights = F.conv2d(visible, kernel[None, None], padding=1)
    return around / weights.clamp(min=min(KERNEL[0]))


def grid_masks(height: int, width: int, device: torch.device) -> Iterator[Bool[Tensor, "1 1 h w"]]:
    """Masks of the passes, True = hidden: together they hide every pixel once."""
    rows = torch.arange(height, device=device) % PASS_GRID
    columns = torch.arange(width, device=device) % PASS_GRID
    for row in range(PASS_GRID):
        for column in range(PASS_GRID):
            yield ((rows == row)[:, None] & (columns == column))[None, None]
