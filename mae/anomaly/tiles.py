"""Tiles of images, which are scored one by one, and their maps stitched into one without seams."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.data.transform import View, apply_view, trim, trimmed

OVERLAP = 0.25
"""minimum overlap of neighbouring tiles, of a tile's side"""

Size = tuple[int, int]
"""height and width"""


class Tiling(NamedTuple):
    """Division of images into tiles."""

    count: int = 0
    """tiles along each side, of the image resized to hold them; 0: `side` decides"""
    side: int = 0
    """side of a tile in pixels of the image as it is, whatever its size"""


class Place(NamedTuple):
    """First row and column of a tile, in pixels."""

    top: int
    left: int


class ViewRule(NamedTuple):
    """Rule by which an image becomes the input of features."""

    size: Size
    """of the images that the features take: the whole image, or a tile"""
    stride: Size
    """distance of neighbouring patches of the features, in pixels"""
    tiling: Tiling | None = None

    @property
    def is_fixed(self) -> bool:
        """True where views of all images have one size, so that patches have common positions."""
        return self.tiling is None or not self.tiling.side

    @property
    def view_size(self) -> Size:
        """Size of all views; of rules that are `is_fixed`."""
        assert self.is_fixed
        share = 1 if self.tiling is None else 1 + (self.tiling.count - 1) * (1 - OVERLAP)
        height, width = (
            side + stride * round(side * (share - 1) / stride)
            for side, stride in zip(self.size, self.stride, strict=True)
        )
        return height, width

    def view(self, image: Shaped[Tensor, "c h w"]) -> Shaped[Tensor, "c H W"]:
        """View of an image: resized as a whole, or for tiles of a given side at its own scale.

        A view at its own scale is continued by reflection where it is smaller than a tile, or
        where patches would leave pixels over.
        """
        image = trim(image)
        if self.is_fixed:
            return whole_view(image, self.view_size)
        height, width = self.scaled((image.shape[-2], image.shape[-1]))
        if (height, width) != image.shape[-2:]:
            image = whole_view(image, (height, width))
        for dim, tile, stride in zip((-2, -1), self.size, self.stride, strict=True):
            side = image.shape[dim]
            length = tile + stride * max(0, -(-(side - tile) // stride))
            image = image.index_select(dim, _reflected(side, length))
        return image

    def places(self, view: Size) -> list[Place]:
        """Tiles of a view, row by row; their corners lie on the grid of the patches."""
        rows, columns = (
            _starts(side, tile, stride)
            for side, tile, stride in zip(view, self.size, self.stride, strict=True)
        )
        return [Place(top, left) for top in rows for left in columns]

    def stitched(
        self, scores: Sequence[Float[Tensor, "b gh gw"]], view: Size
    ) -> Float[Tensor, "b GH GW"]:
        """Map of a view from those of its tiles, in the order of `places`.

        Where tiles overlap, it is their mean, by weights that fall towards a tile's edges.
        """
        rows, columns = scores[0].shape[1:]
        grid = [
            (side - tile) // stride + cells
            for side, tile, stride, cells in zip(
                view, self.size, self.stride, (rows, columns), strict=True
            )
        ]
        total = scores[0].new_zeros(scores[0].shape[0], *grid)
        weights = scores[0].new_zeros(grid)
        window = _fade(rows, total)[:, None] * _fade(columns, total)
        for (top, left), own in zip(self.places(view), scores, strict=True):
            i, j = top // self.stride[0], left // self.stride[1]
            total[:, i : i + rows, j : j + columns] += own * window
            weights[i : i + rows, j : j + columns] += window
        return total / weights

    def on_image(
        self, maps: Float[Tensor, "gh gw"], image: Shaped[Tensor, "c h w"]
    ) -> Float[Tensor, "gh2 gw2"]:
        """Part of a view's map that lies on the image, without its continuation."""
        if self.is_fixed:
            return maps
        height, width = (
            min(cells, -(-cells * side // max(side, tile)))
            for cells, side, tile in zip(
                maps.shape, self.scaled((image.shape[-2], image.shape[-1])), self.size, strict=True
            )
        )
        return maps[:height, :width]

    def scaled(self, image: Size) -> Size:
        """Size that an image of size `image` has in its view."""
        if self.is_fixed:
            return self.view_size
        assert self.tiling is not None
        factor = min(self.size) / self.tiling.side
        tall, wide = trimmed(*image)
        return max(1, round(tall * factor)), max(1, round(wide * factor))


def whole_view(image: Shaped[Tensor, "c h w"], size: Size) -> Shaped[Tensor, "c H W"]:
    """The whole image, resized to `size`; its aspect ratio changes where theirs differ."""
    image = trim(image)
    return apply_view(image, View(0, 0, image.shape[-2], image.shape[-1], False), size)


def _starts(side: int, tile: int, stride: int) -> list[int]:
    count = 1 + math.ceil((side - tile) / (tile * (1 - OVERLAP)) - 1e-9)
    steps = (side - tile) // stride
    return [stride * round(number * steps / max(1, count - 1)) for number in range(count)]


def _fade(cells: int, like: Tensor) -> Float[Tensor, " cells"]:
    places = (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) / cells
    return (math.pi * places).sin().square()


def _reflected(side: int, length: int) -> Tensor:
    """Indices [length] of a side's pixels, continued by reflection without repeating the edge."""
    period = max(1, 2 * (side - 1))
    places = torch.arange(length) % period
    return torch.minimum(places, period - places)
