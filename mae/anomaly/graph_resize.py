"""Whole images resized inside a traced graph, to the pixels that `whole_view` gives.

torch resizes 8-bit images in integers: weights of 16 bits, sums of 32, rounded after each direction
(bicubic kernel of Keys 1981 with a = -1/2, widened when it reduces).  The same sums in float64 are
exact, so every runtime gets the same pixels.
"""

from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from mae.data.transform import LONGEST

WORD = 2**15
"""integer weights are below this"""
MOST_SHIFTS = 22
"""maximum number of bits of the weights behind the point"""


def resize_whole(
    images: Shaped[Tensor, "b c H W"], size: tuple[int, int]
) -> Shaped[Tensor, "b c h w"]:
    """uint8 or uint16 images of any size → those of `size`.

    Of 16 bits single pixels may differ by 1 of 65,535, since torch resizes these in float32.
    """
    pixels = images.double()
    rows, columns = positions(images)
    (height, tall), (width, wide) = sides(rows, columns)
    across = _weights(columns, width, wide, size[1])
    down = _weights(rows, height, tall, size[0])
    if images.dtype == torch.uint16:
        return (down @ (pixels @ across.T)).round().clamp(0, 2**16 - 1).to(torch.uint16)
    across, of_across = _integers(across)
    down, of_down = _integers(down)
    narrow = _shifted(pixels @ across.T, of_across)
    return _shifted(down @ narrow, of_down).to(torch.uint8)


def positions(images: Shaped[Tensor, "b c H W"]) -> tuple[Tensor, Tensor]:
    """0, 1, … for the rows [H] and the columns [W], whose numbers are known when a graph runs."""
    rows, columns = (torch.arange(side, device=images.device).double() for side in images.shape[2:])
    return rows, columns


class Side(NamedTuple):
    """A side of an image, as tensors of a graph."""

    length: Tensor
    used: Tensor
    """length of its part that `trim` leaves"""


def sides(rows: Tensor, columns: Tensor) -> tuple[Side, Side]:
    """Height and width of an image from its `positions`."""
    height, width = (one.sum() * 0 + one[-1] + 1 for one in (rows, columns))
    tall, wide = torch.minimum(height, LONGEST * width), torch.minimum(width, LONGEST * height)
    return Side(height, tall), Side(width, wide)


def _weights(numbers: Tensor, length: Tensor, used: Tensor, target: int) -> Tensor:
    """Weights [target length] of the pixels of a side, of which the middle `used` ones count."""
    start = ((length - used) / 2).floor()
    scale = used / target
    wide = scale.clamp(min=1)
    centres = scale * (torch.arange(target, device=numbers.device).double() + 0.5)
    low = (centres - 2 * wide + 0.5).floor().clamp(min=0)[:, None]
    high = torch.minimum((centres + 2 * wide + 0.5).floor(), used)[:, None]
    places = (numbers - start)[None]
    x = ((places - centres[:, None] + 0.5) / wide).abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * -0.5
    kernel = torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))
    kernel = torch.where((places >= low) & (places < high), kernel, 0.0)
    return kernel / kernel.sum(1, keepdim=True)


def _integers(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers below WORD in proportion to `weights`, and what stands for 1."""
    powers = 2.0 ** torch.arange(1, MOST_SHIFTS + 1, device=weights.device).double()
    fits = (0.5 + weights.max() * powers).floor() < WORD
    one = torch.where(fits, powers, 1.0).max()
    return (weights.abs() * one + 0.5).floor() * weights.sign(), one


def _shifted(sums: Tensor, one: Tensor) -> Tensor:
    """Sums of pixels in units of `one`, rounded to whole levels."""
    return ((sums + one / 2) / one).floor().clamp(0, 255)
