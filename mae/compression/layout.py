"""Images of any size as batches of the sizes that a model takes: whole, or in tiles."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Shaped
from torch import Tensor

from mae.objectives.capabilities import ImageCoding

WHOLE = (0, 0)
"""tile of images that are coded whole"""
MOST_TILES = 64
"""maximum number of images or tiles in a batch"""
MOST_PIXELS = 1 << 20
"""maximum number of pixels in a batch, unless a single image has more"""
MOST_CODES = 1 << 13
"""maximum number of codes in a batch that a model predicts"""
LARGEST_WHOLE = 1 << 24
"""maximum number of pixels of an image that is coded whole"""

Size = tuple[int, int]
Grids = Sequence[Size]
"""rows and columns of each map of codes"""


def parts_of(size: Size, coding: ImageCoding, tile: Size) -> tuple[int, Size]:
    """Number and size of the parts of an image of `size`: whole, or in tiles row by row."""
    unit = coding.strides[0] if tile == WHOLE else tile
    rows, columns = (-(-side // one) for side, one in zip(size, unit, strict=True))
    return (1, (rows * unit[0], columns * unit[1])) if tile == WHOLE else (rows * columns, tile)


def split(image: Shaped[Tensor, "c h w"], size: Size, tile: Size) -> Shaped[Tensor, "n c th tw"]:
    """Parts of an image, of `size`; sides that are too short are continued by their last pixels.

    `tile`: WHOLE, or `size`.
    """
    height, width = image.shape[1:]
    rows, columns = -(-height // size[0]), -(-width // size[1])
    down, across = (
        torch.arange(many * part).clamp(max=side - 1)
        for many, part, side in ((rows, size[0], height), (columns, size[1], width))
    )
    filled = image[:, down][:, :, across]
    if tile == WHOLE:
        return filled[None]
    parts = filled.unflatten(2, (columns, size[1])).unflatten(1, (rows, size[0]))
    return parts.permute(1, 3, 0, 2, 4).flatten(0, 1)


def joined(parts: Shaped[Tensor, "n c th tw"], size: Size) -> Shaped[Tensor, "c h w"]:
    """Image of `size` from its parts: the reverse of `split`."""
    height, width = size
    columns = -(-width // parts.shape[3])
    tiles = parts.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
    return tiles.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def batches(sizes: Sequence[tuple[int, Size]], codes_of: dict[Size, int]) -> Iterator[range]:
    """Yield the parts of each batch, by number: neighbours of one size.

    `sizes`: number and size of the parts of each image; `codes_of`: codes that a model predicts in
    a part of this size (empty: none).  A function of these alone, so that a file is read in the
    batches in which it was written.
    """
    first = 0
    each = (size for count, size in sizes for _ in range(count))
    for size, group in groupby(each):
        count = len(list(group))
        most = max(1, min(MOST_TILES, MOST_PIXELS // (size[0] * size[1])))
        if codes_of:
            most = max(1, min(most, MOST_CODES // codes_of[size]))
        for start in range(first, first + count, most):
            yield range(start, min(start + most, first + count))
        first += count
