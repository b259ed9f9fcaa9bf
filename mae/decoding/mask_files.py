"""Mask files: the numbers that a segmentation mask stores for its pixels, unchanged."""

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from mae.decoding.pillow import is_lossy, open_image
from mae.decoding.pixels import BadImage, check_size
from mae.decoding.png import without_metadata

GRAY, PALETTE, COLOUR = "gray levels", "palette indices", "colours"

TOPS = {"L;2": 3, "L;4": 15}
"""largest gray level by Pillow's raw mode of a PNG of 2 or 4 bits, which it scales to 8"""

ORIENTATION = 0x0112
"""EXIF tag"""


class StoredMask(NamedTuple):
    """Mask as its file stores it."""

    values: npt.NDArray[np.uint32]
    """[h w] gray level, palette index, or colour as red · 65,536 + green · 256 + blue"""
    kind: str
    """GRAY, PALETTE or COLOUR"""
    top: int
    """largest value of this kind"""
    lossy: bool
    """JPEG or lossy WebP: values are only near those that were drawn"""
    palette: npt.NDArray[np.uint32] | None = None
    """colours by index"""

    def colours(self) -> npt.NDArray[np.uint32]:
        """[h w] colours, whatever the kind; BadImage for 16 bits."""
        if self.kind == COLOUR:
            return self.values
        if self.palette is not None:
            return self.palette[np.minimum(self.values, len(self.palette) - 1)]
        if self.top > 255:
            raise BadImage("has 16 bits; a table of colours needs 8")
        return self.values * (255 // self.top) * 0x010101


def read_mask(data: bytes) -> StoredMask:
    """Decode a PNG, JPEG or WebP; colours that are all gray are gray levels, as are gray palettes.

    BadImage for files that do not decode, animations, partly transparent pixels, and colours of
    16 bits, which would be rounded.
    """
    with open_image(io.BytesIO(without_metadata(data))) as image:
        check_size(image.height, image.width)
        raw = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
        if raw.endswith(";16B") and image.mode != "I;16":
            raise BadImage("has 16-bit colours: store 8 bits a channel, or class numbers")
        lossy = is_lossy(data)
        if image.mode == "P" and (palette := _palette(image)) is not None:
            return StoredMask(np.asarray(image).astype(np.uint32), PALETTE, 255, lossy, palette)
        if image.mode in ("1", "L", "P", "I;16"):
            top = TOPS.get(raw, {"1": 1, "I;16": 65_535}.get(image.mode, 255))
            levels = np.asarray(image).astype(np.uint32)
            return StoredMask(
                levels // (255 // top) if top in (3, 15) else levels, GRAY, top, lossy
            )
        if "A" in image.mode and image.getchannel("A").getextrema() != (255, 255):
            raise BadImage("has transparent pixels: paint them, or drop the alpha")
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.uint32), 2, 0)
        if (red == green).all() and (red == blue).all():
            return StoredMask(red, GRAY, 255, lossy)
        return StoredMask(red << 16 | green << 8 | blue, COLOUR, 0xFFFFFF, lossy)


def _palette(image: ImageFile) -> npt.NDArray[np.uint32] | None:
    """Colours by index; None where the colour of each index is the gray of that level."""
    colours = np.array(image.getpalette("RGB"), np.uint32).reshape(-1, 3)
    packed = colours @ np.array([65_536, 256, 1], np.uint32)
    is_gray = len(packed) == 256 and (packed == np.arange(256) * 0x010101).all()
    return None if is_gray else packed


def orientation(data: bytes) -> int:
    """EXIF orientation of a JPEG, PNG or WebP, 1 to 8; 1 where there is none or it is invalid.

    The orientation tag of a TIFF is not meant: it is applied when the image is decoded.
    """
    if not data.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError):
        return 1  # the decoder names the defect
    return found if found in range(1, 9) else 1
