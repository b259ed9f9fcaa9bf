"""JPEG with at most as many bits as an image's codes: a baseline of autoencoders with codes."""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mae.pictures.reconstruction import psnr

QUALITIES = range(1, 96)
"""Pillow's useful qualities"""


def has_jpeg(channels: int, bits: int) -> bool:
    """True for images that JPEG stores: 8 bits, one or three channels."""
    return bits == 8 and channels in (1, 3)


def jpeg_psnr(image: Float[Tensor, "c h w"], bits: float) -> float:
    """PSNR in dB of the best JPEG of an image in [0, 1] with at most `bits`, headers not counted.

    That of the image's mean colour where even the lowest quality needs more.
    """
    whole = (image * 255).round().byte().permute(1, 2, 0).numpy()
    pixels = whole[:, :, 0] if len(image) == 1 else whole
    low, high, best = 0, len(QUALITIES), b""  # the size grows with the quality
    while low < high:
        middle = (low + high) // 2
        data = encoded(pixels, QUALITIES[middle])
        if 8 * (len(data) - data.index(SCAN)) <= bits:
            low, best = middle + 1, data
        else:
            high = middle
    made = image.mean(dim=(1, 2), keepdim=True).expand_as(image)
    if best:
        array = np.atleast_3d(np.array(Image.open(io.BytesIO(best))))
        made = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255
    return psnr((made - image).square().mean()).item()


SCAN = b"\xff\xda"
"""marker before the compressed data of a JPEG file"""


def encoded(pixels: np.ndarray, quality: int) -> bytes:
    """JPEG file of an image, with optimised Huffman tables."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
