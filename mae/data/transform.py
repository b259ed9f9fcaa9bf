"""From decoded pixels to the view that the model sees: uint8 in, uint8 out.

Random resized crop and flip are functions of a key, so a sample's view does not depend on who
makes it.  Bicubic with antialiasing, within rounding of PIL's.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.hashing import uniforms

ATTEMPTS = 10


class View(NamedTuple):
    """A part of an image, in pixels, and whether to mirror it."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def random_view(
    height: int,
    width: int,
    key: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: bool,
) -> View:
    """Random resized crop (Szegedy et al. 2014) drawn as torchvision draws it, from `key`.

    Ten tries for an area in `scale` times the image's and a width-to-height ratio in `ratio`,
    uniform in its logarithm; then the largest centred crop whose ratio is allowed.
    """
    draws = uniforms(key, 4 * ATTEMPTS + 1)
    mirrored = bool(flip and draws[-1] < 0.5)
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for area_u, ratio_u, top_u, left_u in draws[:-1].reshape(ATTEMPTS, 4).tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
        aspect = math.exp(log_low + (log_high - log_low) * ratio_u)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(top_u * (height - h + 1)), int(left_u * (width - w + 1))
            return View(top, left, h, w, mirrored)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    return View((height - h) // 2, (width - w) // 2, h, w, mirrored)


def apply_view(image: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """uint8 [c h w] → uint8 [c *size]."""
    part = image[:, view.top : view.top + view.height, view.left : view.left + view.width]
    # On uint8 this is native and, on the channels-last pixels that decoders give, fast.
    image = F.interpolate(part[None], size=size, mode="bicubic", antialias=True)[0]
    return image.flip(-1) if view.flip else image


def center_view(image: Tensor, size: tuple[int, int], crop_pct: float) -> Tensor:
    """For evaluation: the largest centred part of `size`'s shape, `crop_pct` of it kept.

    Resizing the short side to size / crop_pct and cutting out the centre, in one interpolation.
    """
    height, width = image.shape[-2:]
    fit = min(height / size[0], width / size[1]) * crop_pct
    h, w = max(1, round(size[0] * fit)), max(1, round(size[1] * fit))
    return apply_view(image, View((height - h) // 2, (width - w) // 2, h, w, False), size)


def stack(images: list[Tensor]) -> Tensor:
    """Equal [c h w] to one contiguous batch [b c h w]."""
    return torch.stack(images).contiguous()
