"""JPEG, PNG and WebP through Pillow, with its failures sorted: what is no usable image, and why."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from mae.decoding.pixels import BadImage, ImageInfo, Pixels, check_bits, check_size, undecodable

# Pillow has readers for much else, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
WITH_ALPHA = (2, 4)
CHANNELS = {"1": 1, "I": 1} | {mode: channels for channels, mode in MODES.items()}
NO_PNG = "16-bit colour PNG needs imagecodecs: pip install 'mae[formats]'"


@contextmanager
def open_image(file: BinaryIO | Path) -> Iterator[ImageFile]:
    """Pillow's image, its header read.  Raises BadImage for what is none, too large or animated.

    Errors of decoding, inside the `with`, come out as BadImage too.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                # The pictures that some cameras append to a JPEG are no animation.
                frames = getattr(image, "n_frames", 1)
                if image.format in ("PNG", "WEBP") and frames > 1:
                    raise BadImage(f"is animated: {frames} frames")
                yield image
    except BadImage:
        raise
    except Image.UnidentifiedImageError:  # its text is the address of a buffer
        raise BadImage("does not decode: no JPEG, PNG or WebP inside") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"refused: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise undecodable(error) from None


def picture_info(data: bytes | bytearray) -> ImageInfo:
    """What the header tells.  Raises BadImage as `open_image` does."""
    with _opened(data) as image:
        stored, bits = _stored(image)
        return ImageInfo(image.height, image.width, stored, bits, stored in WITH_ALPHA)


def read_picture(data: bytes | bytearray, channels: int, bits: int) -> Pixels:
    """The pixels as stored; those of 8 bits as Pillow converts them where `channels` is 1 or 3.

    Raises BadImage as `open_image` does, and for more bits a channel than `bits`.
    """
    with _opened(data) as image:
        stored, depth = _stored(image)
        check_bits(depth, bits)
        if depth == 8:
            stored = channels if channels in (1, 3) else stored
            values = np.array(image.convert(MODES[stored]))
        elif stored == 1:
            values = np.array(image, np.uint16)
        else:
            image.verify()  # the checksums, which the other decoder passes over
            values = _deep_png(data, stored)
        return Pixels(values.reshape(image.height, image.width, stored), stored in WITH_ALPHA)


@contextmanager
def _opened(data: bytes | bytearray) -> Iterator[ImageFile]:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # libwebp has made room for two pictures before Pillow asks for their size.
        check_size(*_webp_size(data))
    with open_image(io.BytesIO(data)) as image:
        check_size(image.height, image.width)
        yield image


def is_lossy(data: bytes | bytearray) -> bool:
    """Whether these are the bytes of a JPEG, or of a WebP whose colours are coded with loss."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return data[:2] == b"\xff\xd8"
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
        place += 8 + size + size % 2
    return False


def _stored(image: ImageFile) -> tuple[int, int]:
    """Channels and bits as stored; palettes and inks are stored colours."""
    # Pillow opens 16-bit colour in an 8-bit mode; only the raw mode ("RGB;16B") tells.
    raw = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
    layout, _, depth = raw.partition(";")
    if depth.startswith("16"):
        return CHANNELS[layout], 16
    return CHANNELS.get(image.mode, 3), 8


def _deep_png(data: bytes | bytearray, channels: int) -> np.ndarray:
    try:
        import imagecodecs
    except ImportError:
        raise BadImage(NO_PNG) from None
    try:
        # A transparent colour beside the picture comes out as alpha: no channel of it.
        return imagecodecs.png_decode(bytes(data))[..., :channels]
    except RuntimeError as error:
        raise undecodable(error) from None


def _webp_size(data: bytes | bytearray) -> tuple[int, int]:
    """Height and width of the canvas, by the first chunk (RFC 9649)."""
    if len(data) < 30:
        raise BadImage("does not decode: a WebP without its header")
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif data[12:16] == b"VP8L":
        word = int.from_bytes(data[21:25], "little")
        width, height = (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return height, width
