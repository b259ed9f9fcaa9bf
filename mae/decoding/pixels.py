"""Pixels as a file holds them, and how they become the channels and bits asked for."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

# Pillow's weights of red, green and blue (ITU-R 601-2), in 65536ths.
LUMA = np.array([19595, 38470, 7471], np.uint32)


class BadImage(ValueError):
    """An image that cannot be used; the message says why, the caller knows which."""


def undecodable(error: Exception) -> BadImage:
    """What a library says of an image, in a short line."""
    reason = str(error).partition("\n")[0][:120] or type(error).__name__
    return BadImage(f"does not decode: {reason}")


class ImageInfo(NamedTuple):
    """What an image's header tells."""

    height: int
    width: int
    channels: int
    """with alpha, where there is one"""
    bits: int
    """of a channel as decoded: 8 or 16"""
    alpha: bool = False
    """whether the last channel is opacity"""

    @property
    def colours(self) -> int:
        """Channels without alpha: what a model is to see."""
        return self.channels - self.alpha


class Pixels(NamedTuple):
    """An image in its own channels and depth."""

    values: np.ndarray
    """uint8 or uint16 [h w c]"""
    alpha: bool
    """whether the last channel is opacity"""


def check_size(height: int, width: int, channels: int = 1) -> None:
    """Raise BadImage for an image without pixels, or with more than Pillow's limit of them.

    Many-channelled images may hold as many values as the largest image of four channels.
    """
    if min(height, width, channels) < 1:
        raise BadImage(f"has no pixels: {height} × {width} × {channels}")
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    if height * width > limit or height * width * channels > 4 * limit:
        size = f"{height} × {width} × {channels}"
        raise BadImage(f"refused: {size} is too large, the limit is {limit} pixels")


def check_bits(stored: int, bits: int) -> None:
    """Raise BadImage where an image is deeper than `bits`: it would be cut silently."""
    if stored > bits:
        raise BadImage(f"{stored} bits a channel, but data.bits is {bits}")


def fit(pixels: Pixels, channels: int, bits: int) -> np.ndarray:
    """Uint8 (`bits` 8) or uint16 (16) values [h w channels]: the rules of `decode`.

    Raises BadImage where the image is deeper than `bits` or its channels do not convert.
    """
    values, alpha = pixels
    check_bits(8 * values.dtype.itemsize, bits)
    stored = values.shape[2]
    if stored != channels:
        colours = stored - alpha
        if {colours, channels} - {1, 3}:
            many = f"{stored} channel{'s' * (stored > 1)}"
            raise BadImage(f"has {many}, but data.in_chans is {channels}")
        values = values[..., :colours]
        if colours < channels:
            values = np.repeat(values, channels, axis=2)
        elif colours > channels:
            values = _luma(values)
    if bits > 8 * values.dtype.itemsize:
        values = values * np.uint16(257)  # 0 … 255 to 0 … 65535, exactly
    return np.ascontiguousarray(values)


def _luma(values: np.ndarray) -> np.ndarray:
    # The largest sum, 65535 · 65536 + 32768, just fits 32 bits.
    return ((values @ LUMA + 2**15) >> 16).astype(values.dtype)[..., None]


EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
