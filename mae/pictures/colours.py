"""One colour map for all amounts: dark is little, light is much, in equal steps of lightness."""

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

STEPS = 256


def ramp() -> Tensor:
    """[STEPS 3] sRGB in [0, 1], from dark violet over red and orange to pale yellow.

    Lightness and hue grow evenly in OKLab (Ottosson 2020, "A perceptual color space for image
    processing"), so that equal differences look equal, in print and to the colour-blind too.
    """
    share = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    lightness = 0.18 + 0.77 * share
    hue = torch.deg2rad(290 + 175 * share)
    chroma = 0.05 + 0.12 * torch.sin(math.pi * share)
    a, b = chroma * hue.cos(), chroma * hue.sin()
    cones = torch.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    ).pow(3)
    to_rgb = torch.tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ],
        dtype=torch.float64,
    )
    linear = (to_rgb @ cones).clamp(0, 1)
    bent = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.pow(1 / 2.4) - 0.055)
    return bent.T.float()


def heat_map(values: Tensor, top: float, size: tuple[int, int]) -> Image.Image:
    """One value per patch, [rows columns], as a picture of `size` (height, width in pixels).

    0 is the dark end, `top` and more the light one; NaN is left transparent.
    """
    places = (values / top).nan_to_num(0.0).clamp(0, 1) * (STEPS - 1)
    colours = ramp()[places.round().long().cpu()]
    return patches_picture(colours, ~values.isnan().cpu(), size)


def patches_picture(colours: Tensor, is_shown: Tensor, size: tuple[int, int]) -> Image.Image:
    """One colour per patch, [rows columns 3] in [0, 1]; transparent where not `is_shown`."""
    rgba = torch.cat([colours.clamp(0, 1), is_shown[..., None].to(colours.dtype)], dim=-1)
    image = Image.fromarray((rgba * 255).round().to(torch.uint8).cpu().numpy(), "RGBA")
    return image.resize((size[1], size[0]), Image.Resampling.NEAREST)


def css_gradient(stops: int = 17) -> str:
    """The ramp, left to right, as CSS writes it."""
    places = torch.linspace(0, STEPS - 1, stops).round().long()
    return f"linear-gradient(to right,{','.join(map(_hex, ramp()[places].tolist()))})"


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
