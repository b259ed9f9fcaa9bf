"""Scores of patches as a map of an image's pixels."""

import torch
from jaxtyping import Float
from torch import Tensor

from mae.anomaly.graph_resize import sides
from mae.anomaly.tiles import Size, ViewRule


def image_map(
    maps: Float[Tensor, "gh gw"], rule: ViewRule, view: Size, image: Size
) -> Float[Tensor, "h w"]:
    """Scores of the pixels of an image of size `image`, from those of its `view`'s patches."""
    height, width = (torch.arange(side).double() for side in image)
    return pixel_map(maps[None], rule, view, rule.scaled(image), (height, width))[0]


def pixel_map(
    maps: Float[Tensor, "b gh gw"],
    rule: ViewRule,
    view: Size,
    scaled: Size,
    places: tuple[Tensor, Tensor],
) -> Float[Tensor, "b h w"]:
    """Scores of each pixel, interpolated linearly between the centres of the patches.

    `view`: height and width of the views; `scaled`: of the image in them; `places`: `positions` of
    the image as it was.  Beyond the outermost centres scores are those of the centres.
    """
    down, across = (
        _weights(
            maps.shape[axis + 1],
            rule.stride[axis],
            view[axis],
            scaled[axis] * (numbers - ((length - used) / 2).floor() + 0.5) / used,
        ).to(maps.dtype)
        for axis, (numbers, (length, used)) in enumerate(zip(places, sides(*places), strict=True))
    )
    return down @ maps @ across.T


def _weights(cells: int, stride: int, side: int, pixels: Tensor) -> Tensor:
    """Weights [n cells] of the patches of a view's side for positions [n] in it, in pixels."""
    patch = side - stride * (cells - 1)
    place = ((pixels - patch / 2) / stride).clamp(0, cells - 1)
    number = torch.arange(cells, device=pixels.device).double()
    return (1 - (place[:, None] - number).abs()).clamp(min=0)
