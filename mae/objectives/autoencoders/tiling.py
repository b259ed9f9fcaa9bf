"""Images of any size through a network of fixed tiles that overlap and fade into each other."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

OVERLAP = 0.25
"""minimum overlap of neighbouring tiles, of a tile's side"""

Run = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]


def in_faded_tiles(
    run: Run, images: Float[Tensor, "b c h w"], tile: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """Result of `run` on tiles [b c th tw] of `images` of any size.

    Tiles overlap, and results are averaged by weights that fall to 0 towards a tile's edges, so
    that there are no seams.  Images smaller than a tile are continued by reflection.
    """
    height, width = images.shape[2:]
    for dim, side, least in ((2, height, tile[0]), (3, width, tile[1])):
        if side < least:
            images = images.index_select(dim, reflected(side, least, images.device))
    if images.shape[2:] == tile:
        return run(images)[:, :, :height, :width]
    total = torch.zeros_like(images)
    weights = torch.zeros_like(images[:1, :1])
    window = fade(tile[0], images)[:, None] * fade(tile[1], images)
    for top in starts(images.shape[2], tile[0]):
        for left in starts(images.shape[3], tile[1]):
            rows, columns = slice(top, top + tile[0]), slice(left, left + tile[1])
            total[:, :, rows, columns] += run(images[:, :, rows, columns]) * window
            weights[:, :, rows, columns] += window
    return (total / weights)[:, :, :height, :width]


def starts(side: int, tile: int) -> list[int]:
    """First pixels of the tiles of one side, evenly spaced."""
    count = 1 + math.ceil((side - tile) / (tile * (1 - OVERLAP)))
    return [round(number * (side - tile) / max(1, count - 1)) for number in range(count)]


def fade(side: int, like: Tensor) -> Float[Tensor, " side"]:
    """Weights of a tile's pixels, 1 in the middle."""
    places = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side
    return (math.pi * places).sin().square()


def reflected(side: int, length: int, device: torch.device) -> Tensor:
    """Indices [length] of a side's pixels, continued by reflection without repeating the edge."""
    period = max(1, 2 * (side - 1))
    places = torch.arange(length, device=device) % period
    return torch.minimum(places, period - places)
