"""TIFF images of one page, through tifffile.

tifffile reads what microscopes and satellites write, and trusts it: strips that are missing come
out black, and what the header claims is allocated.  So what it is to decode is checked first.
"""

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mae.decoding.pillow import open_image
from mae.decoding.pixels import BadImage, ImageInfo, Pixels, check_size, undecodable

if TYPE_CHECKING:
    from tifffile import TiffPage


TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NO_TIFF = "TIFF needs tifffile and imagecodecs: pip install 'mae[formats]'"

# Reduced copies included; a longer chain of pages may be a ring.
MOST_PAGES = 32

NO_COMPRESSION, LZW, JPEG = 1, 5, 7
COMPRESSIONS = {
    NO_COMPRESSION: "none",
    LZW: "LZW",
    8: "deflate",
    32946: "deflate",
    JPEG: "JPEG",
    32773: "PackBits",
    34925: "LZMA",
    50000: "ZSTD",
}
NUMBERS = {1: "uint", 2: "int", 3: "float", 4: "undefined", 5: "complex int", 6: "complex"}

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3}
PREMULTIPLIED, STRAIGHT = 1, 2  # what the extra channel may be, to be alpha


def tiff_info(data: bytes | bytearray) -> ImageInfo:
    """What the header tells, nothing decoded.  Raises BadImage for what `read_tiff` refuses."""
    with _open_page(data) as page:
        height, width = page.imagelength, page.imagewidth
        if _orientation(page) > 4:
            height, width = width, height
        channels = 3 if page.photometric in (PALETTE, INKS) else page.samplesperpixel
        bits = 8 if page.bitspersample <= 8 else 16
        return ImageInfo(height, width, channels, bits, _has_alpha(page))


def read_tiff(data: bytes | bytearray) -> Pixels:
    """The pixels, colours, alpha and orientation as Pillow has them where it can.

    Raises BadImage for what does not decode, and what is not one page of unsigned integers of
    at most 16 bits in a compression that is known here.
    """
    with _open_page(data) as page:
        values = page.asarray(squeeze=False, maxworkers=1)
        # [planes 1 h w samples], of which planes or samples are 1
        values = np.moveaxis(values[:, 0], 0, 2).reshape(*values.shape[2:4], -1)
        values = _colours(page, values)
        alpha = _has_alpha(page)
        if alpha and page.extrasamples[0] == PREMULTIPLIED:
            values = _straight(values)
        return Pixels(_turned(values, _orientation(page)), alpha)


@contextmanager
def _open_page(data: bytes | bytearray) -> Iterator["TiffPage"]:
    """The one page, checked."""
    try:
        import imagecodecs  # noqa: F401  # tifffile uses it where it is there
        import tifffile
    except ImportError:
        raise BadImage(NO_TIFF) from None
    # It complains about each doubtful tag; what matters is checked here.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        # No reading by the habits of one maker's microscopes.
        file = tifffile.TiffFile(io.BytesIO(data), is_lsm=False, is_ndpi=False, is_scanimage=False)
        with file:
            page = _only_page(file.pages)
            _check_header(page)
            _check_segments(page, data)
            yield page
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # damaged files fail in all ways: KeyError, struct.error, ...
        raise undecodable(error) from None


def _only_page(pages) -> "TiffPage":
    """The page that is no reduced copy and no mask of another.  Copies in SubIFDs never count."""
    whole = []
    for number in range(MOST_PAGES + 1):
        try:
            page = pages[number]
        except IndexError:
            break
        if not page.subfiletype & 0b101:
            whole.append(page)
    else:
        raise BadImage(f"holds more than {MOST_PAGES} pages, one expected")
    if len(whole) != 1:
        raise BadImage(f"holds {len(whole) or 'no'} pages, one expected")
    return whole[0]


def _check_header(page: "TiffPage") -> None:
    depth, samples = page.bitspersample, page.samplesperpixel
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise BadImage(f"is {page.imagedepth} images deep, one expected")
    check_size(page.imagelength, page.imagewidth, samples)
    if page.is_tiled:
        check_size(page.tilelength, page.tilewidth, samples)
    if not isinstance(depth, int) or not isinstance(page.sampleformat, int):
        raise BadImage("its channels are not of one type")
    if page.sampleformat != 1 or depth not in (1, 2, 4, *range(8, 17)):
        kind = NUMBERS.get(page.sampleformat, "unknown")
        raise BadImage(f"{kind}{depth} values: uint8 or uint16 expected")
    if page.compression not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise BadImage(f"compression {_named(page.compression)}: one of {known} expected")
    if page.photometric not in COLOURS:
        raise BadImage(f"colours are {_named(page.photometric)}: gray, RGB, CMYK expected")
    if page.predictor not in (1, 2) or (page.predictor == 2 and depth not in (8, 16)):
        raise BadImage(f"predictor {_named(page.predictor)} of {depth} bits is not supported")
    if page.compression == LZW and page.fillorder != 1:
        raise BadImage("LZW of reversed bits is not supported")
    if page.photometric == YCBCR and page.compression != JPEG:
        raise BadImage("colours are YCbCr without JPEG: not supported")
    if page.compression == JPEG and (depth != 8 or page.photometric == INKS):
        raise BadImage("JPEG inside a TIFF: 8 bits of gray or RGB expected")
    if page.photometric in (PALETTE, INKS):
        if samples != COLOURS[page.photometric] or depth > 8:
            raise BadImage(f"{samples} channels of {depth} bits in palette or CMYK: not supported")
    elif samples < COLOURS[page.photometric]:
        raise BadImage(f"does not decode: RGB of {samples} channels")


def _check_segments(page: "TiffPage", data: bytes | bytearray) -> None:
    """All strips or tiles are there, inside the file, and hold what they have to."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if page.is_tiled:
        across = math.ceil(page.imagewidth / page.tilewidth)
        expected = across * math.ceil(page.imagelength / page.tilelength) * planes
    else:
        expected = math.ceil(page.imagelength / page.rowsperstrip) * planes
    offsets, sizes = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(sizes) == expected:
        held = min(len(offsets), len(sizes))
        raise BadImage(f"does not decode: {held} of {expected} strips or tiles")
    for offset, size in zip(offsets, sizes, strict=True):
        if offset < 8 or size < 1 or offset + size > len(data):
            raise BadImage("does not decode: truncated")
    if page.is_contiguous and sum(sizes) < page.nbytes:
        raise BadImage("does not decode: strips too short")
    for offset, size in zip(offsets, sizes, strict=True):
        if page.compression == JPEG:
            _check_jpeg(page, bytes(data[offset : offset + size]))
        elif page.compression == LZW:
            check_lzw(data[offset : offset + size])


def _check_jpeg(page: "TiffPage", segment: bytes) -> None:
    """Because libjpeg allocates what the segment claims, and fills what is missing with gray."""
    most = page.tilelength if page.is_tiled else page.rowsperstrip
    with open_image(io.BytesIO(segment)) as image:
        if image.height > most or image.width > (page.tilewidth or page.imagewidth):
            raise BadImage("does not decode: a JPEG larger than its tile")
    # No byte of coded pixels looks like these two marks: end of image, start of scan.
    if segment.rfind(b"\xff\xd9") < segment.rfind(b"\xff\xda"):
        raise BadImage("does not decode: truncated")


def _colours(page: "TiffPage", values: np.ndarray) -> np.ndarray:
    """Uint8 or uint16 over the full range, 0 black: 8-bit values of palettes and inks are RGB."""
    depth = page.bitspersample
    if page.photometric == PALETTE:
        table = np.asarray(page.tags.valueof(320)).reshape(3, 2**depth)
        return (table >> 8).astype(np.uint8).T[values[..., 0].astype(np.uint8)]
    if depth < 8:
        values = values.astype(np.uint8) * np.uint8(255 // (2**depth - 1))
    values = values.astype(np.uint8 if depth <= 8 else np.uint16)
    if page.photometric == INKS:
        return np.array(
            Image.frombytes("CMYK", values.shape[1::-1], values.tobytes()).convert("RGB")
        )
    if page.photometric == WHITE_IS_ZERO:
        colours = values[..., : values.shape[2] - len(page.extrasamples)]
        np.subtract(255 if depth <= 8 else 2**depth - 1, colours, out=colours)
    return values


def _has_alpha(page: "TiffPage") -> bool:
    extra = page.extrasamples
    return (
        len(extra) == 1
        and extra[0] in (PREMULTIPLIED, STRAIGHT)
        and page.samplesperpixel == COLOURS[page.photometric] + 1
    )


def _straight(values: np.ndarray) -> np.ndarray:
    """Colours divided by their alpha, as Pillow does: 0 where there is none of it."""
    most = np.iinfo(values.dtype).max
    alpha = values[..., -1:].astype(np.uint32)
    colours = values[..., :-1].astype(np.uint32) * most // np.maximum(alpha, 1)
    colours = np.where(alpha == 0, 0, np.minimum(colours, most)).astype(values.dtype)
    return np.concatenate([colours, values[..., -1:]], axis=2)


def _orientation(page: "TiffPage") -> int:
    """1 (as it lies) to 8, where the first row and column of the picture are."""
    orientation = page.tags.valueof(274, 1)
    return orientation if orientation in range(1, 9) else 1


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    if orientation > 4:
        values = values.transpose(1, 0, 2)
    # Then which way rows and columns go, by TIFF's numbering of corners.
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return values[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _named(number: int) -> str:
    return getattr(number, "name", str(int(number)))


CLEAR, END, FIRST = 256, 257, 258

# A table of strings grows by one with each code from its second on; codes widen one entry before
# the table needs it (TIFF 6.0, section 13).  So each code's place and width are known ahead.
_entries = np.append(FIRST, np.arange(FIRST, 4096))
WIDTHS = 9 + (_entries >= 511).astype(int) + (_entries >= 1023) + (_entries >= 2047)
PLACES = np.cumsum(WIDTHS) - WIDTHS
# The string that a code is about to add may be its own, but for the first.
MOST = np.append(CLEAR - 1, np.arange(FIRST, 4096))


def check_lzw(data: bytes | bytearray) -> None:
    """Raise BadImage for codes of strings that are not in the table yet."""
    # Three bytes from any place on hold a whole code.
    padded = np.frombuffer(bytes(data) + bytes(3), np.uint8).astype(np.uint32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    bits = 8 * len(data)
    if bits < 9 or words[0] >> 15 != CLEAR:
        raise BadImage("does not decode: LZW without a start")
    bit = 9
    while True:
        places = bit + PLACES
        places = places[places + WIDTHS <= bits]
        widths = WIDTHS[: len(places)]
        codes = words[places >> 3] >> (24 - (places & 7) - widths) & ((1 << widths) - 1)
        marks = np.flatnonzero((codes == CLEAR) | (codes == END))
        # Without a mark the data end here, or the table overflows.
        used = marks[0] if len(marks) else len(codes)
        if (codes[:used] > MOST[:used]).any() or used == len(MOST):
            raise BadImage("does not decode: wrong LZW code")
        if not len(marks) or codes[used] == END:
            return
        bit = int(places[used] + widths[used])
