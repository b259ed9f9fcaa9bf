"""Examination of an image before packing: full decoding, properties, difference hash."""

import io
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.decoding.decode import decode, read_info
from mae.decoding.pillow import open_image
from mae.decoding.pixels import FLOAT_BITS, BadImage, ImageInfo

ROWS, COLUMNS = 8, 9
"""size of the reduced image that is hashed"""
DRAFT_SIZE = (64, 64)
"""minimum width and height of the reduced decoding of JPEGs"""
HOLE = 256
"""length of a run of zero bytes that marks a damaged JPEG"""
MIN_RANGE = 8 / 255
"""minimum contrast of the reduced image for a hash"""
MIN_STEP = 1 / 255
"""minimum difference of neighbouring pixels for a bit of the hash"""
MIN_BITS = 8
"""minimum number of ones, and of zeros, in a hash"""
MIN_ROWS = 4
"""minimum number of different rows of a hash"""
STORED_BITS = (10, 12, 14, 16)
"""depths that files of 16 bits may hold"""


class ImageProperties(NamedTuple):
    """Properties of an image that decodes."""

    info: ImageInfo
    hash: int | None
    """difference hash of 64 bits; None for images with too little structure"""
    deviation: float
    """standard deviation of the gray pixels, in [0, 255]; 0: all pixels are equal, or nearly; nan:
    an array of floats"""


def examine(data: bytes | bytearray, extension: str) -> ImageProperties:
    """Decode an image file completely.

    Raises BadImage where it does not decode, and for JPEGs with a run of zeros in their data.
    """
    info = read_info(data, extension)
    if info.bits == FLOAT_BITS:
        decode(data, extension, info.colours, info.bits)
        return ImageProperties(info, None, math.nan)
    gray = gray_pixels(data, extension, info)
    deviation = float(gray.std(correction=0)) if gray.min() < gray.max() else 0.0
    return ImageProperties(info, difference_hash(gray, info.bits), 255 * deviation)


def gray_pixels(data: bytes | bytearray, extension: str, info: ImageInfo) -> Tensor:
    """Gray pixels [1 h w] in [0, 1] for `difference_hash`; of large JPEGs a reduced version.

    Raises BadImage as `examine`, and for arrays of floats.
    """
    if info.bits == FLOAT_BITS:
        raise BadImage("an array of floats, not an image")
    if data[:2] == b"\xff\xd8":
        # Decoders fill a hole with gray and raise no error.
        if hole := _hole_length(data):
            raise BadImage(f"a hole of {hole:,} zero bytes")
        with open_image(io.BytesIO(data)) as image:
            image.draft("L", DRAFT_SIZE)  # reads all of the file, in less time
            return torch.from_numpy(np.array(image.convert("L")))[None].float() / 255
    pixels = decode(data, extension, info.colours, info.bits)
    return luma(pixels.float() / torch.iinfo(pixels.dtype).max)


def difference_hash(gray: Tensor, bits: int = 8) -> int | None:
    """Difference hash (dHash) of `gray` [1 h w], in [0, 1], of an image of 8 or 16 `bits`.

    Cameras and scanners store 10, 12 or 14 bits in 16: the steps of the hash, which would be lost
    in a sixteenth of the range, are those of the lowest depth that holds all values.

    The hash's 64 bits mark the pixels of an 8 x 9 reduction that are darker than their right
    neighbours.  None for (nearly) blank images and stripes, whose hashes are the same for unrelated
    images.
    """
    small = F.adaptive_avg_pool2d(gray[None], (ROWS, COLUMNS))[0, 0]
    if bits == STORED_BITS[-1]:
        levels = 2**bits - 1
        brightest = round(float(gray.max()) * levels)
        small = small * (levels / next(2**one - 1 for one in STORED_BITS if brightest < 2**one))
    if small.max() - small.min() < MIN_RANGE:
        return None
    # The minimum step keeps compression noise in flat areas from flipping bits.
    is_darker = (small[:, 1:] - small[:, :-1] > MIN_STEP).numpy()
    rows = np.packbits(is_darker, axis=1)
    ones = int(is_darker.sum())
    if not MIN_BITS <= ones <= 64 - MIN_BITS or len(np.unique(rows)) < MIN_ROWS:
        return None
    return int.from_bytes(rows.tobytes(), "big")


def luma(pixels: Tensor) -> Tensor:
    """[c h w] → [1 h w]: Pillow's luma for 3 or 4 channels, otherwise the channels' mean."""
    if len(pixels) in (3, 4):
        weights = torch.tensor([0.299, 0.587, 0.114])
        return (pixels[:3] * weights[:, None, None]).sum(0, keepdim=True)
    return pixels.mean(0, keepdim=True)


def _hole_length(data: bytes | bytearray) -> int:
    """Length of the first run of HOLE or more zeros in a JPEG's compressed data, or 0.

    No encoder writes such a run.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else 2 + length
    end = data.find(b"\xff\xd9", position)
    end = len(data) if end < 0 else end
    hole = data.find(bytes(HOLE), position, end)
    if hole < 0:
        return 0
    stop = hole + HOLE
    while stop < end and data[stop] == 0:
        stop += 1
    return stop - hole
