"""Encoded images to uint8 pixels: simplejpeg for JPEG, Pillow for the rest and as referee."""

import io
import math

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from mae.data.pillow import BadImage, open_image

PILLOW_MODES = {1: "L", 3: "RGB"}
JPEG_COLORSPACES = {1: "GRAY", 3: "RGB"}


def decode(data: bytes | bytearray, extension: str, channels: int) -> Tensor:
    """Pixels as uint8 [c h w] (channels last in memory), gray and colour converted.

    EXIF orientation is ignored, as torchvision's own image folders do; alpha is dropped.
    Raises BadImage for bytes that do not decode, more than 8 bits a channel, decompression
    bombs (Pillow's limit), or channel counts other than 1 and 3.
    """
    if channels not in PILLOW_MODES:
        raise BadImage(f"JPEG and PNG have 1 or 3 channels, not {channels}")
    pixels = None
    if extension != "png":
        # simplejpeg refuses what is no JPEG or doubtful (warnings of libjpeg): ask Pillow.
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if int(height) * int(width) <= (Image.MAX_IMAGE_PIXELS or math.inf):
                pixels = simplejpeg.decode_jpeg(data, colorspace=JPEG_COLORSPACES[channels])
        except ValueError:
            pass
    if pixels is None:
        pixels = _decode_pillow(data, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_pillow(data: bytes | bytearray, channels: int) -> np.ndarray:
    with open_image(io.BytesIO(data)) as image:
        pixels = np.array(image.convert(PILLOW_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)
