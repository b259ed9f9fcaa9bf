"""Is an image whole, what is it like, and which others look like it."""

import io
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.decoding.decode import decode, read_info
from mae.decoding.pillow import open_image
from mae.decoding.pixels import BadImage, ImageInfo

ROWS, COLUMNS = 8, 9
DRAFT = (64, 64)
HOLE = 256
LEAST_RANGE = 8 / 255
LEAST_STEP = 1 / 255
FEWEST_BITS = 8
FEWEST_ROWS = 4


class Examined(NamedTuple):
    """What is known of an image that decodes."""

    info: ImageInfo
    look: int | None
    """difference hash of 64 bits; None where there is too little to see"""


def examine(data: bytes | bytearray, extension: str) -> Examined:
    """Decode all of it.  Raises BadImage for what does not, and for JPEGs with a hole of zeros."""
    info = read_info(data, extension)
    if data[:2] == b"\xff\xd8":
        # Decoders make gray of a hole, and say nothing.
        if hole := _hole(data):
            raise BadImage(f"a hole of {hole:,} zero bytes")
        with open_image(io.BytesIO(data)) as image:
            image.draft("L", DRAFT)  # all is read, in less time
            gray = torch.from_numpy(np.array(image.convert("L")))[None].float() / 255
    else:
        pixels = decode(data, extension, info.colours, info.bits)
        gray = _luma(pixels.float() / torch.iinfo(pixels.dtype).max)
    return Examined(info, difference_hash(gray))


def difference_hash(gray: Tensor) -> int | None:
    """Which pixels of an 8 x 9 reduction of `gray` [1 h w] are darker than their right neighbours.

    None for images that are blank or nearly so, or stripes: their hashes say nothing.
    """
    small = F.adaptive_avg_pool2d(gray[None], (ROWS, COLUMNS))[0, 0]
    if small.max() - small.min() < LEAST_RANGE:
        return None
    # The least step keeps compression's noise on flat ground from flipping bits.
    bits = (small[:, 1:] - small[:, :-1] > LEAST_STEP).numpy()
    rows = np.packbits(bits, axis=1)
    known = int(bits.sum())
    if not FEWEST_BITS <= known <= 64 - FEWEST_BITS or len(np.unique(rows)) < FEWEST_ROWS:
        return None
    return int.from_bytes(rows.tobytes(), "big")


def _luma(pixels: Tensor) -> Tensor:
    """[c h w] → [1 h w]: Pillow's luma of colour, the mean of other channels."""
    if len(pixels) in (3, 4):
        weights = torch.tensor([0.299, 0.587, 0.114])
        return (pixels[:3] * weights[:, None, None]).sum(0, keepdim=True)
    return pixels.mean(0, keepdim=True)


def _hole(data: bytes | bytearray) -> int:
    """Length of a run of zeros in a JPEG's compressed data, where no encoder writes one; else 0."""
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
