"""Smaller images for the shards: `mae pack --resize` and `--quality`.

8 bits and 1 or 3 channels become JPEG (where a quality is asked for, or they are JPEG already) or
PNG; all else becomes `.npy`, [h w c] in its own depth.  Images that are small enough keep their
bytes, unless a quality is asked for and saves some.
"""

import io
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mae.data.transform import center_view
from mae.decoding.decode import decode_native

QUALITY = 90
JPEG = ("jpg", "jpeg")
VIEW = 224


class Encoded(NamedTuple):
    """An image file, in memory."""

    data: bytes | bytearray
    extension: str


def recode(source: Encoded, resize: int | None = None, quality: int | None = None) -> Encoded:
    """`source` with a short side of at most `resize` pixels, as JPEG of `quality` where it can be.

    Raises BadImage for bytes that do not decode.
    """
    if resize is None and quality is None:
        return source
    pixels = decode_native(source.data, source.extension)
    simple = pixels.dtype == torch.uint8 and len(pixels) in (1, 3)
    height, width = pixels.shape[-2:]
    smaller = resize is not None and min(height, width) > resize
    if not smaller and (quality is None or not simple):
        return source
    size = (height, width)
    if smaller and resize is not None:
        scale = resize / min(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if not simple:
        return Encoded(_npy(_resize_deep(pixels, size)), "npy")
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy().squeeze()))
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    is_jpeg = source.extension in JPEG
    if quality is None and not is_jpeg:
        return Encoded(_save(image, "PNG"), "png")
    data = _save(image, "JPEG", quality=quality or QUALITY, subsampling="4:2:0")
    if not smaller and is_jpeg and len(data) >= len(source.data):
        return source
    return Encoded(data, "jpg")


def pixel_cost(source: Encoded, stored: Encoded, resize: int | None = None) -> float:
    """Mean absolute difference, of 255, between the centred views of both.

    The view is a square of 224 pixels, or of `resize` where that is less.
    """
    side = min(VIEW, resize or VIEW)
    views = []
    for encoded in (source, stored):
        pixels = decode_native(encoded.data, encoded.extension)
        full = torch.iinfo(pixels.dtype).max
        view = center_view(pixels.float(), (side, side), crop_pct=1.0)
        views.append(view.clamp(0, full) * (255 / full))
    return float((views[0] - views[1]).abs().mean())


def _resize_deep(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, of any depth and number of channels: [c h w] → [c *size]."""
    smooth = F.interpolate(pixels[None].float(), size=size, mode="bicubic", antialias=True)[0]
    full = torch.iinfo(pixels.dtype).max
    return smooth.round().clamp(0, full).to(torch.int32).to(pixels.dtype)


def _npy(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), allow_pickle=False)
    return file.getvalue()


def _save(image: Image.Image, format: str, **options: int | str) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
