"""Drawing: colour map, heat maps, display of images, panels of reconstructions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mae.networks.patches import unit_values
from mae.objectives.base import Objective
from mae.objectives.capabilities import Reconstruction
from mae.pictures.words import write

STEPS = 256
"""number of colours of the colour map"""

GAP = 4
"""pixels between the pictures of a panel"""

TITLE, LINE = 20, 16
"""height of a heading and of a name in pixels"""

NAME = "#62666d"
"""colour of the names of images"""

SMALLEST = 128
"""minimum longest side of a picture on a panel, in pixels"""

HIDDEN = (0.55, 0.48, 0.70)
"""colour of hidden pixels, of 1: no gray, which gray images have, nor a usual one of photographs"""

ERROR_TOP = 0.25
"""absolute error at the light end of the colour map on panels: the same at all steps of a run"""

SHOWN_DEVIATIONS = 2.0
"""standard deviations from the mean at the ends of the scale on which floats are displayed"""

MOST_VALUES = 2**20
"""maximum number of values that percentiles of several images are computed from"""


def ramp() -> Tensor:
    """Colour map [STEPS 3], sRGB in [0, 1], from dark violet over red and orange to pale yellow.

    Lightness and hue change evenly in OKLab (Ottosson 2020, "A perceptual color space for image
    processing"): equal differences look equal, also in print and to colour-blind readers.
    """
    share = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    hue = torch.deg2rad(290 + 175 * share)
    return oklch_to_srgb(0.18 + 0.77 * share, 0.05 + 0.12 * torch.sin(math.pi * share), hue)


def code_colours(count: int) -> Tensor:
    """Colours [count 3] in [0, 1] of the codes 0 to `count` - 1, the same in every picture.

    Hues by the golden angle, so that neighbouring numbers differ most, at three lightnesses.
    """
    number = torch.arange(count, dtype=torch.float64)
    hue = number * (math.pi * (3 - math.sqrt(5)))
    lightness = torch.tensor([0.62, 0.80, 0.44], dtype=torch.float64)[torch.arange(count) % 3]
    return oklch_to_srgb(lightness, torch.full_like(hue, 0.13), hue)


def oklch_to_srgb(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """Colours [n] in polar OKLab (hue in radians) → sRGB [n 3], clipped to [0, 1]."""
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
    """Heat map of one value per patch [rows columns]; `size`: height and width in pixels.

    0 is dark, `top` and more light; NaN is transparent.
    """
    places = (values / top).nan_to_num(0.0).clamp(0, 1) * (STEPS - 1)
    colours = ramp()[places.round().long().cpu()]
    return patches_picture(colours, ~values.isnan().cpu(), size)


def error_maps(errors: Tensor, top: float = ERROR_TOP) -> Tensor:
    """Absolute errors [b c h w] → heat maps [b 3 h w] of each pixel's mean over the channels."""
    places = (errors.mean(dim=1) / top).clamp(0, 1) * (STEPS - 1)
    return ramp()[places.round().long().cpu()].movedim(-1, 1)


def code_maps(codes: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Maps of codes below `count` [b rows columns] → colours [b 3 h w]; `size`: (h, w)."""
    colours = code_colours(count)[codes.cpu()].movedim(-1, 1)
    return F.interpolate(colours, size=size, mode="nearest-exact")


def patches_picture(colours: Tensor, is_shown: Tensor, size: tuple[int, int]) -> Image.Image:
    """Picture of one colour per patch [rows columns 3] in [0, 1]; transparent if not `is_shown`."""
    rgba = torch.cat([colours.clamp(0, 1), is_shown[..., None].to(colours.dtype)], dim=-1)
    image = Image.fromarray((rgba * 255).round().to(torch.uint8).cpu().numpy(), "RGBA")
    return image.resize((size[1], size[0]), Image.Resampling.NEAREST)


def css_gradient(stops: int = 17) -> str:
    """Colour map as a CSS gradient, left to right."""
    places = torch.linspace(0, STEPS - 1, stops).round().long()
    return f"linear-gradient(to right,{','.join(map(_hex, ramp()[places].tolist()))})"


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def reconstruction_panel(
    objective: Objective,
    images: Tensor,
    seeds: Tensor,
    title: str = "",
    names: Sequence[str] = (),
) -> Image.Image:
    """Panel with rows of (original | masked | reconstruction) for integer `images` [b c h w].

    For an objective without a mask: (original | reconstruction | error), with the corrupted input
    where there is one.  `seeds` [b] determine the noise.  16-bit images are stretched from their
    1st to their 99th percentile.
    """
    training = objective.training
    objective.eval()
    reconstruct: Any = objective.reconstruct
    made = reconstruct(images, objective.draw(images, seeds))
    objective.train(training)
    return tile(compared(images, made), title, names)


def compared(images: Tensor, made: Reconstruction) -> dict[str, Tensor]:
    """Columns of a panel: integer `images` [b c h w], and what was made of them."""
    original, shown = displayable(images), displayable(images, made.pasted)
    if made.mask is not None:
        masked = covered(original, made.mask)
        return {"original": original, "masked": masked, "reconstruction": shown}
    errors = {f"error, 0 to {ERROR_TOP:g}": error_maps((shown - original).abs())}
    if made.inputs is None:
        return {"original": original, "reconstruction": shown, **errors}
    inputs = displayable(images, made.inputs).clamp(0, 1)
    return {"original": original, "input": inputs, "denoised": shown, **errors}


def covered(pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures [b c h w] in [0, 1] → [b 3 h w], with the colour HIDDEN where `mask` is 1.

    `mask` [b 1 h w] or [b c h w]: 1 = hidden.
    """
    rgb = pictures[:, :3] if pictures.shape[1] >= 3 else pictures[:, :1].expand(-1, 3, -1, -1)
    hidden = mask[:, :1].to(rgb.dtype)
    return rgb * (1 - hidden) + rgb.new_tensor(HIDDEN).view(3, 1, 1) * hidden


def displayable(images: Tensor, pictures: Tensor | None = None) -> Tensor:
    """Scale `images` [b c h w] to [0, 1] for display; or `pictures` in [0, 1] like them.

    16-bit images are stretched (`stretch`), as they often use a small part of their range.  Of
    normalised floats, `pictures` too, black and white are SHOWN_DEVIATIONS from the mean.
    """
    originals = unit_values(images)
    shown = originals if pictures is None else pictures.float()
    if images.is_floating_point():
        return (shown.float() / (2 * SHOWN_DEVIATIONS) + 0.5).clamp(0, 1)
    return stretch(shown, originals) if images.dtype == torch.uint16 else shown


def displayable_alone(pictures: Tensor, originals: Tensor) -> Tensor:
    """Scale `pictures` in [0, 1] that have no original, such as samples, for display.

    `originals` are integer images of the same kind: those of 16 bits stretch all pictures alike.
    """
    if originals.dtype != torch.uint16:
        return pictures.float()
    values = unit_values(originals).flatten()
    return stretch(pictures.float(), values[:: -(-len(values) // MOST_VALUES)][None])


def stretch(pictures: Tensor, originals: Tensor) -> Tensor:
    """Stretch `pictures` [b c h w]: 1st to 99th percentile of each original is black to white."""
    low, span = _black_and_span(originals)
    return ((pictures - low) / span).clamp(0, 1)


def contrast(images: Tensor) -> Tensor:
    """Difference between white and black of `images` on display, [b 1 1 1]; of integers, of 1."""
    if images.is_floating_point():
        return torch.full((len(images), 1, 1, 1), 2 * SHOWN_DEVIATIONS, device=images.device)
    if images.dtype != torch.uint16:
        return torch.ones(len(images), 1, 1, 1, device=images.device)
    return _black_and_span(unit_values(images))[1]


def _black_and_span(originals: Tensor) -> tuple[Tensor, Tensor]:
    values = originals.flatten(1)
    low, high = (values.quantile(q, dim=1).view(-1, 1, 1, 1) for q in (0.01, 0.99))
    return low, (high - low).clamp(min=1e-6)


def tile(columns: Mapping[str, Tensor], title: str = "", names: Sequence[str] = ()) -> Image.Image:
    """Grid of pictures, [b c h w] in [0, 1] per column, with a heading for each column.

    `names` of the images are written below their rows.

    Small pictures are enlarged by integer factors without smoothing.  More than four rows are
    split into two blocks side by side, so that the panel fits a screen.
    """
    b, _, h, w = next(iter(columns.values())).shape
    factor = max(1, -(-SMALLEST // max(h, w)))
    cell_h, cell_w = h * factor + GAP + LINE * bool(names), w * factor + GAP
    halves = 2 if b > 4 else 1
    rows = -(-b // halves)
    block = len(columns) * cell_w + GAP
    font = ImageFont.load_default(13)
    top = TITLE * (2 if title else 1)
    canvas = Image.new(
        "RGB", (halves * block + (halves - 1) * 3 * GAP, top + rows * cell_h), "white"
    )
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((GAP, 3), title, fill="black", font=font)
    for half in range(halves):
        left = half * (block + 3 * GAP) + GAP
        for column, (name, pictures) in enumerate(columns.items()):
            x = left + column * cell_w
            draw.text((x, top - TITLE + 3), name, fill="black", font=font)
            for row, picture in enumerate(pictures[half * rows : (half + 1) * rows]):
                canvas.paste(to_pil(picture, factor), (x, top + row * cell_h))
        for row, name in enumerate(names[half * rows : (half + 1) * rows]):
            words, y = ", ".join(name.splitlines()), top + row * cell_h + h * factor
            write(canvas, (left, y), words, ImageFont.load_default(11), NAME, block - 2 * GAP)
    return canvas


def strips(title: str, rows: Mapping[str, Tensor]) -> Image.Image:
    """Rows of pictures, [n c h w] in [0, 1] each, under a title; the key of a row is its heading.

    Pictures are enlarged as by `tile`.
    """
    h, w = next(iter(rows.values())).shape[-2:]
    factor = max(1, -(-SMALLEST // max(h, w)))
    cell_h, cell_w = h * factor + GAP, w * factor + GAP
    font = ImageFont.load_default(13)
    heights = [cell_h + (TITLE if heading.strip() else 0) for heading in rows]
    pictures_w = max(map(len, rows.values())) * cell_w + GAP
    words_w = max(math.ceil(font.getlength(line)) for line in (title, *rows)) + 2 * GAP
    canvas = Image.new("RGB", (max(pictures_w, words_w), TITLE + sum(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 3), title, fill="black", font=font)
    y = TITLE
    for (heading, pictures), height in zip(rows.items(), heights, strict=True):
        draw.text((GAP, y + 3), heading, fill="black", font=font)
        for column, picture in enumerate(pictures):
            place = (GAP + column * cell_w, y + height - cell_h)
            canvas.paste(to_pil(picture, factor), place)
        y += height
    return canvas


def stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks of a panel below each other."""
    width = max(block.width for block in blocks)
    height = sum(block.height for block in blocks) + (len(blocks) - 1) * TITLE
    canvas = Image.new("RGB", (width, height), "white")
    y = 0
    for block in blocks:
        canvas.paste(block, (0, y))
        y += block.height + TITLE
    return canvas


def to_pil(picture: Tensor, factor: int = 1) -> Image.Image:
    """Convert [c h w] in [0, 1]: gray, or the first three channels as red, green, blue."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    rgb = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
    image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.tmp")
    image.save(part, format="PNG")
    part.replace(path)
