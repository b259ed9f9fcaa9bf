"""Encoded images to pixels, as torchvision's image folders have them where those can read them.

| stored                            | comes out as                                             |
|-----------------------------------|----------------------------------------------------------|
| the channels wanted               | themselves                                               |
| 1 channel, 3 wanted               | it, three times                                          |
| 3 channels, 1 wanted              | Pillow's luma; of a JPEG, the luma stored                |
| alpha, not wanted                 | dropped, not blended (TIFF: where declared as alpha)     |
| palette, CMYK, YCCK, YCbCr        | 3 channels, as Pillow converts them; transparency lost   |
| other numbers of channels         | BadImage                                                 |
| 1, 2, 4 bits of gray              | 8 bits, over the full range                              |
| 8 bits, 16 wanted                 | each value times 257                                     |
| 9 to 15 bits (TIFF)               | 16 bits, the values as they are                          |
| more than 8 bits, 8 wanted        | BadImage                                                 |
| EXIF orientation                  | ignored                                                  |
| orientation tag of a TIFF         | applied, as Pillow does                                  |
| several pages, animation          | BadImage (what a TIFF declares a reduced copy is no page)|
| more than PIL's MAX_IMAGE_PIXELS  | BadImage, by the header                                  |

The content tells the format, not the extension.
"""

import math
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from mae.decoding.arrays import MAGIC, array_info, read_array
from mae.decoding.pillow import picture_info, read_picture
from mae.decoding.pixels import ImageInfo, Pixels, fit
from mae.decoding.tiff import TIFF_STARTS, read_tiff, tiff_info

JPEG_COLORSPACES = {1: "GRAY", 3: "RGB"}
# What the file calls its colours; inks are left to Pillow, whose conversion is the reference.
JPEG_CHANNELS = {"Gray": 1, "YCbCr": 3, "RGB": 3}

FORMATS = {"tif": "tiff", "tiff": "tiff", "npy": "npy"}


def decode(data: bytes | bytearray, extension: str, channels: int, bits: int = 8) -> Tensor:
    """Pixels as uint8 (`bits` 8) or uint16 (16) [c h w], channels last in memory.

    Raises BadImage for bytes that do not decode and for images that the table above refuses.
    """
    # Most images: before all else.
    if channels in JPEG_COLORSPACES and (pixels := _decode_jpeg(data, channels)) is not None:
        if bits == 8:
            return torch.from_numpy(pixels).permute(2, 0, 1)
        stored = Pixels(pixels, False)
    else:
        stored = _read(data, extension, channels, bits)
    return torch.from_numpy(fit(stored, channels, bits)).permute(2, 0, 1)


def decode_native(data: bytes | bytearray, extension: str) -> Tensor:
    """Pixels in the image's own channels, alpha included, and depth: uint8 or uint16 [c h w].

    Raises BadImage for bytes that do not decode.
    """
    info = read_info(data, extension)
    return decode(data, extension, info.channels, info.bits)


def read_info(data: bytes | bytearray, extension: str) -> ImageInfo:
    """What the header tells: nothing is decoded.  Raises BadImage for what is no image."""
    format = _format(data, extension)
    if format == "tiff":
        return tiff_info(data)
    if format == "npy":
        return array_info(data)
    if (header := jpeg_header(data)) is not None:
        return ImageInfo(header.height, header.width, JPEG_CHANNELS[header.space], 8)
    return picture_info(data)


def _read(data: bytes | bytearray, extension: str, channels: int, bits: int) -> Pixels:
    format = _format(data, extension)
    if format == "tiff":
        return read_tiff(data)
    if format == "npy":
        return read_array(data, channels)
    return read_picture(data, channels, bits)


def _format(data: bytes | bytearray, extension: str) -> str:
    """`tiff`, `npy` or, for all else, `picture`."""
    start = bytes(data[:6])
    if start.startswith(TIFF_STARTS):
        return "tiff"
    if start == MAGIC:
        return "npy"
    if start.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        return "picture"
    return FORMATS.get(extension, "picture")


def _decode_jpeg(data: bytes | bytearray, channels: int) -> np.ndarray | None:
    """Uint8 [h w c], or None for what is no JPEG or doubtful (warnings of libjpeg): ask Pillow."""
    if data[:2] != b"\xff\xd8" or jpeg_header(data) is None:
        return None
    try:
        return simplejpeg.decode_jpeg(data, colorspace=JPEG_COLORSPACES[channels])
    except ValueError:
        return None


class JpegHeader(NamedTuple):
    """What the start of a JPEG tells."""

    height: int
    width: int
    space: str
    """a key of JPEG_CHANNELS"""


def jpeg_header(data: bytes | bytearray) -> JpegHeader | None:
    """Of a JPEG for simplejpeg, of no more than PIL's MAX_IMAGE_PIXELS; None of all else."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(height), int(width)
    except ValueError:
        return None
    if space not in JPEG_CHANNELS or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    return JpegHeader(height, width, space)
