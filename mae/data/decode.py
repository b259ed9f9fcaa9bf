"""Encoded images to uint8 pixels: simplejpeg for JPEG, Pillow for the rest and as referee."""

import io
import warnings

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

PILLOW_MODES = {1: "L", 3: "RGB"}
JPEG_COLORSPACES = {1: "GRAY", 3: "RGB"}


class BadImage(ValueError):
    """An image that cannot be used; the message says why, the caller knows which."""


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
        # simplejpeg refuses what is rare (CMYK) or doubtful (warnings of libjpeg): ask Pillow.
        try:
            pixels = simplejpeg.decode_jpeg(data, colorspace=JPEG_COLORSPACES[channels])
        except ValueError:
            pixels = None
    if pixels is None:
        pixels = _decode_pillow(data, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_pillow(data: bytes | bytearray, channels: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.mode.startswith(("I", "F")):
                    raise BadImage(f"more than 8 bits a channel (mode {image.mode})")
                return np.array(image.convert(PILLOW_MODES[channels])).reshape(
                    image.height, image.width, channels
                )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"does not decode: {_first_line(error, data)}") from None
    except Image.DecompressionBombWarning as warning:
        raise BadImage(f"refused: {warning}") from None


def _first_line(error: Exception, data: bytes | bytearray) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its text is the address of a buffer
        return f"no image in these {len(data)} bytes"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
