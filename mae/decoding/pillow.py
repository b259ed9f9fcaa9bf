"""Decoding of JPEG, PNG, WebP, BMP and AVIF with Pillow; its errors become BadImage."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import AvifImagePlugin, Image, features
from PIL.ImageFile import ImageFile

from mae.decoding.jpeg import check_jpeg
from mae.decoding.pixels import (
    EXTENSION_OF,
    READ_FORMATS,
    BadImage,
    ImageInfo,
    Pixels,
    check_bits,
    check_size,
    undecodable,
)
from mae.decoding.png import without_metadata
from mae.decoding.signatures import SNIFFED, image_format

# Worker processes decode side by side: one thread each.
vars(AvifImagePlugin)["DEFAULT_MAX_THREADS"] = 1

# Pillow reads many other formats, for some of which it starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "AVIF")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
WITH_ALPHA = (2, 4)
AVIF = ("AVIF", "AVIF sequence")
SAVE_APART = "save one, or each, as a file of its own"
CHANNELS = {"1": 1, "I": 1} | {mode: channels for channels, mode in MODES.items()}
AVIF_INSTALL_HINT = "AVIF needs Pillow's own wheel, with AVIF: pip install 'pillow>=11.3'"
PNG_INSTALL_HINT = "16-bit colour PNG needs imagecodecs: pip install 'maekit[formats]'"


@contextmanager
def open_image(file: BinaryIO | Path) -> Iterator[ImageFile]:
    """Yield Pillow's image with its header read.

    Raises BadImage for other files, for images that are too large or animated, and for errors of
    decoding inside the `with` block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about malformed metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                # JPEGs are exempt: the pictures that some cameras append are no animation.
                frames = getattr(image, "n_frames", 1)
                if image.format in ("PNG", "WEBP", "AVIF") and frames > 1:
                    raise BadImage(f"is animated: {frames} frames; {SAVE_APART}")
                yield image
    except BadImage:
        raise
    except Image.UnidentifiedImageError:  # its message is the address of a buffer
        raise BadImage(f"does not decode: no image inside ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"refused: {error}") from None
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # RuntimeError: libavif
        raise undecodable(error) from None


def picture_info(data: bytes | bytearray) -> ImageInfo:
    """Read the header of an image.  Raises BadImage as `open_image` does."""
    with _open_checked(data) as image:
        stored, bits = _stored_format(image)
        return ImageInfo(image.height, image.width, stored, bits, stored in WITH_ALPHA)


def read_picture(data: bytes | bytearray, channels: int, bits: int) -> Pixels:
    """Decode an image as stored; 8-bit images are converted by Pillow for `channels` 1 or 3.

    Raises BadImage as `open_image` does, and for more than `bits` bits per channel.
    """
    with _open_checked(data) as image:
        stored, depth = _stored_format(image)
        check_bits(depth, bits)
        if depth == 8:
            stored = channels if channels in (1, 3) else stored
            values = np.array(image.convert(MODES[stored]))
        elif stored == 1:
            values = np.array(image, np.uint16)
        else:
            image.verify()  # checksums, which imagecodecs does not check
            values = _deep_png(without_metadata(data), stored)
        return Pixels(values.reshape(image.height, image.width, stored), stored in WITH_ALPHA)


@contextmanager
def _open_checked(data: bytes | bytearray) -> Iterator[ImageFile]:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # Before Pillow opens it: libwebp allocates two whole pictures at once.
        check_size(*_webp_size(data))
    format = image_format(bytes(data[:SNIFFED]))
    if data[4:8] == b"ftyp" and (format in AVIF or b"av1C" in data):
        _check_avif(data)
    elif format and format not in EXTENSION_OF:
        raise BadImage(f"does not decode: holds {format}, convert it to one of {READ_FORMATS}")
    check_jpeg(data)
    with open_image(io.BytesIO(without_metadata(data))) as image:
        check_size(image.height, image.width)
        yield image


def has_transparent_colour(data: bytes | bytearray) -> bool:
    """True for a PNG without alpha channel, some pixels of which its chunk tRNS makes transparent.

    Raises BadImage as `open_image` does.
    """
    if not data.startswith(b"\x89PNG") or b"tRNS" not in data:
        return False
    with _open_checked(data) as image:
        colour = image.info.get("transparency")
        if colour is None:
            return False
        channels, depth = _stored_format(image)
        raw = str(image.tile[0].args) if image.tile else ""
        if image.mode == "P":
            alpha = np.full(256, 255, np.uint8)
            if isinstance(colour, bytes):
                alpha[: len(colour)] = np.frombuffer(colour[:256], np.uint8)
            else:
                alpha[colour] = 0
            return bool((alpha[np.asarray(image)] < 255).any())
        if channels == 1:
            # Stored with less than 8 bits, levels are scaled when they are read; the colour is not.
            bits = depth if depth == 16 else {"1": 1, "L;2": 2, "L;4": 4}.get(raw, 8)
            scale = 1 if bits in (1, 16) else 255 // (2**bits - 1)
            return bool((np.asarray(image) == (colour & (2**bits - 1)) * scale).any())
        values = _deep_png(without_metadata(data), 3) if depth == 16 else np.asarray(image)
        return bool((values == np.array(colour) % 2**depth).all(axis=-1).any())


def is_lossy(data: bytes | bytearray) -> bool:
    """True for a JPEG, an AVIF, and a WebP with lossy colours."""
    if data[4:8] == b"ftyp":
        return True
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return data[:2] == b"\xff\xd8"
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
        place += 8 + size + size % 2
    return False


def _stored_format(image: ImageFile) -> tuple[int, int]:
    """Stored channels and bits per channel; palettes and CMYK count as 3 channels."""
    # Pillow opens 16-bit colour in an 8-bit mode; only the raw mode ("RGB;16B") has the depth.
    raw = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
    layout, _, depth = raw.partition(";")
    if depth.startswith("16"):
        return CHANNELS[layout], 16
    return CHANNELS.get(image.mode, 3), 8


def _deep_png(data: bytes | bytearray, channels: int) -> np.ndarray:
    try:
        import imagecodecs
    except ImportError:
        raise BadImage(PNG_INSTALL_HINT) from None
    try:
        # A transparent colour (tRNS) is decoded as an alpha channel: dropped.
        return imagecodecs.png_decode(bytes(data))[..., :channels]
    except RuntimeError as error:
        raise undecodable(error) from None


def _check_avif(data: bytes | bytearray) -> None:
    """Raise BadImage where Pillow cannot read AVIF, and for depths that it would cut to 8 bits."""
    if not features.check("avif"):
        raise BadImage(AVIF_INSTALL_HINT)
    # AV1 codec configuration (AV1-ISOBMFF, section 2.3.3): high_bitdepth, twelve_bit.
    for part in bytes(data).split(b"av1C\x81")[1:]:
        if len(part) > 1 and part[1] & 0x40:
            bits = 12 if part[1] & 0x20 else 10
            raise BadImage(
                f"{bits} bits a channel: AVIF is read with 8; convert to a 16-bit PNG or TIFF"
            )


def _webp_size(data: bytes | bytearray) -> tuple[int, int]:
    """Height and width of the canvas, from the first chunk (RFC 9649, section 2)."""
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
