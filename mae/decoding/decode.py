"""Decoding of image files; pixels equal those of torchvision's image folders where both apply.

| stored                            | decoded                                                  |
|-----------------------------------|----------------------------------------------------------|
| the requested channels            | unchanged                                                |
| 1 channel, 3 requested            | repeated three times                                     |
| 3 channels, 1 requested           | Pillow's luma; of a JPEG, the stored luma                |
| alpha, not requested              | dropped, not blended (TIFF: where declared as alpha)     |
| palette, CMYK, YCCK, YCbCr        | 3 channels, as Pillow converts them; transparency lost   |
| other numbers of channels         | BadImage                                                 |
| 1, 2, 4 bits of gray              | 8 bits, scaled to the full range                         |
| 8 bits, 16 requested              | multiplied by 257                                        |
| floats (.npy), 32 bits requested  | float32 (the channels must be the requested ones)        |
| floats, 8 or 16 bits requested; 8 or 16 bits, floats requested | BadImage                    |
| 9 to 15 bits (TIFF)               | 16 bits, values unchanged                                |
| more than 8 bits, 8 requested     | BadImage                                                 |
| EXIF orientation                  | ignored                                                  |
| orientation tag of a TIFF         | applied, as Pillow does                                  |
| AVIF of more than 8 bits          | BadImage, at any data.bits                               |
| several pages, animation          | BadImage (reduced copies in a TIFF are not pages)        |
| more than PIL's MAX_IMAGE_PIXELS  | BadImage, by the header alone                            |
| JPEG of more than 100 scans       | BadImage, by its markers alone                           |
| JPEG of 12 bits, lossless JPEG    | BadImage                                                 |
| texts, profiles, EXIF             | ignored                                                  |

The format is detected from the content; the extension decides only where the content does not.
"""

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from mae.decoding import pillow
from mae.decoding.arrays import MAGIC, array_info, read_array
from mae.decoding.jpeg import JPEG_CHANNELS, jpeg_header
from mae.decoding.pillow import picture_info, read_picture
from mae.decoding.pixels import FLOAT_BITS, ImageInfo, Pixels, convert_pixels
from mae.decoding.tiff import TIFF_STARTS, holds_jpeg, read_tiff, tiff_info

JPEG_COLORSPACES = {1: "GRAY", 3: "RGB"}

FORMATS = {"tif": "tiff", "tiff": "tiff", "npy": "npy"}
"""extension → format, for content without a known start"""


def decode(data: bytes | bytearray, extension: str, channels: int, bits: int = 8) -> Tensor:
    """Decode an image to uint8 (`bits` 8), uint16 (16) or float32 (32), [c h w].

    Channels are last in memory.

    Raises BadImage for bytes that do not decode and for images that the table above refuses.
    """
    # JPEGs first: they are the most frequent images.
    if (
        channels in JPEG_COLORSPACES
        and bits != FLOAT_BITS
        and (pixels := _decode_jpeg(data, channels)) is not None
    ):
        if bits == 8:
            return torch.from_numpy(pixels).permute(2, 0, 1)
        stored = Pixels(pixels, False)
    else:
        stored = _read(data, extension, channels, bits)
    return torch.from_numpy(convert_pixels(stored, channels, bits)).permute(2, 0, 1)


def decode_native(data: bytes | bytearray, extension: str) -> Tensor:
    """Decode an image in its own channels, alpha included, and depth, as `decode`.

    Raises BadImage for bytes that do not decode.
    """
    info = read_info(data, extension)
    return decode(data, extension, info.channels, info.bits)


def read_info(data: bytes | bytearray, extension: str, channels: int | None = None) -> ImageInfo:
    """Read the header of an image without decoding it.  Raises BadImage for unusable images.

    `channels`: the expected number, by which the axes of an array are known.
    """
    format = file_format(data, extension)
    if format == "tiff":
        return tiff_info(data)
    if format == "npy":
        return array_info(data, channels)
    if (header := jpeg_header(data)) is not None:
        return ImageInfo(header.height, header.width, JPEG_CHANNELS[header.space], 8)
    return picture_info(data)


def is_lossy(data: bytes | bytearray, extension: str) -> bool:
    """True for JPEG, AVIF, WebP with lossy colours, and JPEG inside TIFF; not for bad images."""
    format = file_format(data, extension)
    if format == "tiff":
        return holds_jpeg(data)
    return format == "picture" and pillow.is_lossy(data)


def _read(data: bytes | bytearray, extension: str, channels: int, bits: int) -> Pixels:
    format = file_format(data, extension)
    if format == "tiff":
        return read_tiff(data)
    if format == "npy":
        return read_array(data, channels)
    return read_picture(data, channels, bits)


def file_format(data: bytes | bytearray, extension: str) -> str:
    """Format of the file: `tiff`, `npy`, or `picture` for everything that Pillow reads."""
    start = bytes(data[:6])
    if start.startswith(TIFF_STARTS):
        return "tiff"
    if start == MAGIC:
        return "npy"
    if start.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM")) or start[4:] == b"ft":
        return "picture"
    return FORMATS.get(extension, "picture")


def _decode_jpeg(data: bytes | bytearray, channels: int) -> np.ndarray | None:
    """Decode a JPEG to uint8 [h w c]; None for other files and where libjpeg warns (use Pillow)."""
    if data[:2] != b"\xff\xd8" or jpeg_header(data) is None:
        return None
    try:
        return simplejpeg.decode_jpeg(data, colorspace=JPEG_COLORSPACES[channels])
    except (ValueError, KeyError):
        return None
