"""Headers of JPEG files, and a bound on their scans."""

import math
import re
from typing import NamedTuple

import simplejpeg
from PIL import Image

from mae.decoding.pixels import BadImage

MAX_SCANS = 100
"""Maximum number of scans of a progressive JPEG.

Encoders write 10 to 20.  Each costs a pass over the whole image, however few bytes it has: 100 take
3 s at 24 million pixels, ten times as long as usual, and a file of 100 kB may hold 10,000.
"""
JPEG_CHANNELS = {"Gray": 1, "YCbCr": 3, "RGB": 3}
"""Colour spaces as stored; CMYK and YCCK are left to Pillow, whose conversion is the reference."""

CONVERT = "8 bits and lossy expected; convert it to PNG or TIFF, which may have 16 bits"
START, SCAN = b"\xff\xd8", b"\xff\xda"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""markers start-of-frame (ITU-T T.81, table B.1)"""
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
END_OF_IMAGE = 0xD9
MARKER = re.compile(rb"\xff[^\xff\x00\x01\xd0-\xd8]", re.DOTALL)
"""Next marker with a segment, or end-of-image.

As libjpeg finds it: what precedes a marker is skipped, and so are fill bytes (several 0xFF).
"""


class JpegHeader(NamedTuple):
    """Header of a JPEG."""

    height: int
    width: int
    space: str
    """colour space, a key of JPEG_CHANNELS"""


def jpeg_header(data: bytes | bytearray) -> JpegHeader | None:
    """Read the header of a JPEG; None for files that simplejpeg is not to decode.

    These are other formats, other colour spaces, more pixels than PIL's MAX_IMAGE_PIXELS, and those
    that `check_jpeg` refuses.
    """
    if data[:2] != START:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(height), int(width)
    except (ValueError, KeyError):  # KeyError: samplings that simplejpeg does not know
        return None
    if space not in JPEG_CHANNELS or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    return None if _defect(data) else JpegHeader(height, width, space)


def check_jpeg(data: bytes | bytearray) -> None:
    """Raise BadImage for a JPEG of more than MAX_SCANS scans, or of more than 8 bits."""
    if data[:2] == START and (defect := _defect(data)):
        raise BadImage(defect)


def _defect(data: bytes | bytearray) -> str:
    """Reason not to decode a JPEG, from its markers up to the first scan; empty: none."""
    place, is_progressive, components = 2, False, 0
    while (found := MARKER.search(data, place)) and found.end() + 2 < len(data):
        place, marker = found.end(), data[found.end() - 1]
        if marker == END_OF_IMAGE:
            break
        if marker == SCAN[1]:
            # Only such files may have more than one scan.
            if is_progressive or data[place + 2] < components:
                scans = data.count(SCAN, place - 2)
                if scans > MAX_SCANS:
                    return f"refused: {scans:,} scans, more than {MAX_SCANS}; save it again"
            break
        if marker in FRAMES and place + 7 < len(data):
            bits, components = data[place + 2], data[place + 7]
            is_progressive = marker in PROGRESSIVE
            if bits > 8:
                return f"JPEG of {bits} bits a channel: {CONVERT}"
            if marker in LOSSLESS:
                return f"lossless JPEG: {CONVERT}"
        place += int.from_bytes(data[place : place + 2], "big")
    return ""
