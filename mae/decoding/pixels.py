"""Pixels as stored in a file, and their conversion to the requested channels and bits."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy", "jfif", "jpe", "jif", "jfi")
EXTENSIONS += ("pjpeg", "pjp", "bmp", "dib", "avif")
"""file extensions of images; indexes store places in this tuple, so new ones go to its end"""
EXTENSION_OF = {
    "JPEG": "jpeg",
    "PNG": "png",
    "WebP": "webp",
    "BMP": "bmp",
    "AVIF": "avif",
    "TIFF": "tiff",
    ".npy": "npy",
}
"""formats that are read → the extension to give to files of that format"""
READ_FORMATS = ", ".join(EXTENSION_OF)
"""the same, for messages"""

FLOAT_BITS = 32
"""bits of floats: they are read as float32, whatever is stored"""

# Pillow's weights of red, green and blue (ITU-R 601-2), times 65536.
LUMA = np.array([19595, 38470, 7471], np.uint32)


class BadImage(ValueError):
    """Unusable image; the message holds the reason, not the image's name."""


def white_of(bits: int) -> int:
    """Largest integer of so many bits; 1 for floats, which are normalised where they are read."""
    return 1 if bits == FLOAT_BITS else 2**bits - 1


def undecodable(error: Exception) -> BadImage:
    """BadImage with a library's error message, cut to one line of 120 characters."""
    reason = str(error).partition("\n")[0][:120] or type(error).__name__
    return BadImage(f"does not decode: {reason}")


class ImageInfo(NamedTuple):
    """Size, channels and depth of an image, from its header."""

    height: int
    width: int
    channels: int
    """alpha included"""
    bits: int
    """per channel as decoded: 8 or 16; 32: floats"""
    alpha: bool = False
    """True if the last channel is opacity"""

    @property
    def colours(self) -> int:
        """Number of channels without alpha."""
        return self.channels - self.alpha


def colours_for(info: ImageInfo, channels: int, model: str) -> int:
    """Number of an image's channels that go through a model of `channels`.

    Alpha does only where the model was trained with it; gray images go through a model of three
    channels as gray colours.  Raises BadImage, with the word `model`, for other channels.
    """
    colours = info.colours if info.channels != channels else channels
    if colours != channels and (colours, channels) != (1, 3):
        raise BadImage(f"has {colours} channels, the {model} {channels}")
    return colours


class Pixels(NamedTuple):
    """Image in its stored channels and depth."""

    values: np.ndarray
    """uint8, uint16 or float32 [h w c]"""
    alpha: bool
    """True if the last channel is opacity"""


def check_size(height: int, width: int, channels: int = 1) -> None:
    """Raise BadImage for an image without pixels or with more than PIL's MAX_IMAGE_PIXELS.

    Images of more than four channels may hold as many values as the largest one of four.
    """
    if min(height, width, channels) < 1:
        raise BadImage(f"has no pixels: {height} × {width} × {channels}")
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    if height * width > limit or height * width * channels > 4 * limit:
        size = f"{height} × {width} × {channels}"
        raise BadImage(f"refused: {size} is too large, the limit is {limit} pixels")


def check_bits(stored: int, bits: int) -> None:
    """Raise BadImage for more than `bits` bits per channel, instead of cutting them silently."""
    if stored == FLOAT_BITS > bits:
        raise BadImage(f"holds floats, but data.bits is {bits}: data.bits=32 reads them")
    if bits == FLOAT_BITS > stored:
        raise BadImage(
            f"{stored} bits a channel, but data.bits=32 reads floats in .npy files alone"
        )
    if stored > bits:
        raise BadImage(f"{stored} bits a channel, but data.bits is {bits}")


def convert_pixels(pixels: Pixels, channels: int, bits: int) -> np.ndarray:
    """Convert to `bits`, [h w channels], as listed in `mae.decoding.decode`.

    Raises BadImage where the image is deeper than `bits` or its channels do not convert.
    """
    values, alpha = pixels
    check_bits(8 * values.dtype.itemsize, bits)
    stored = values.shape[2]
    if stored != channels:
        colours = stored - alpha
        if bits == FLOAT_BITS or {colours, channels} - {1, 3}:
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
    # The largest sum, 65535 * 65536 + 32768, fits 32 bits.
    return ((values @ LUMA + 2**15) >> 16).astype(values.dtype)[..., None]
