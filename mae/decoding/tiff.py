"""Decoding of one-page TIFF images with tifffile, after checks of header, segments and LZW codes.

tifffile trusts its input: it decodes missing strips as black and allocates whatever size the
header claims.  Wrong LZW codes can crash the process.  So files are checked before they are
decoded.
"""

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mae.decoding.jpeg import check_jpeg
from mae.decoding.pillow import SAVE_APART, open_image
from mae.decoding.pixels import BadImage, ImageInfo, Pixels, check_size, undecodable

if TYPE_CHECKING:
    from tifffile import TiffPage

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_INSTALL_HINT = "TIFF needs tifffile and imagecodecs: pip install 'maekit[formats]'"

# Reduced copies included.  A limit is needed because the chain of pages may be a ring.
MAX_PAGES = 32

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

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""photometric interpretation → number of channels without alpha"""
PREMULTIPLIED, STRAIGHT = 1, 2
"""values of the tag ExtraSamples that declare an alpha channel"""

CLEAR, END, FIRST = 256, 257, 258
"""LZW codes: clear the table, end of data, first code of a string in the table"""

# The table of strings grows by one entry with each code from its second on, and codes widen one
# entry before the table needs it (TIFF 6.0, section 13).  So the position and width of every code
# since the last CLEAR are known without decoding.
_entries = np.append(FIRST, np.arange(FIRST, 4096))
WIDTHS = 9 + (_entries >= 511).astype(int) + (_entries >= 1023) + (_entries >= 2047)
PLACES = np.cumsum(WIDTHS) - WIDTHS
# Largest valid code at each position: the first must be a byte, each further one may be the string
# that it is about to add.
MAX_CODES = np.append(CLEAR - 1, np.arange(FIRST, 4096))


def tiff_info(data: bytes | bytearray) -> ImageInfo:
    """Read the header of a TIFF.  Raises BadImage for files that `read_tiff` refuses."""
    with open_page(data) as page:
        height, width = page.imagelength, page.imagewidth
        if _orientation(page) > 4:
            height, width = width, height
        channels = 3 if page.photometric in (PALETTE, CMYK) else page.samplesperpixel
        bits = 8 if page.bitspersample <= 8 else 16
        return ImageInfo(height, width, channels, bits, _has_alpha(page))


def holds_jpeg(data: bytes | bytearray) -> bool:
    """True where the pixels are compressed as JPEG; False for files that `read_tiff` refuses."""
    try:
        with open_page(data) as page:
            return int(page.compression) == JPEG
    except BadImage:
        return False


def read_tiff(data: bytes | bytearray) -> Pixels:
    """Decode a TIFF; colours, alpha and orientation equal Pillow's where Pillow reads the file.

    Raises BadImage for files that do not decode, and for anything but one page of unsigned
    integers of at most 16 bits in one of COMPRESSIONS.
    """
    with open_page(data) as page:
        values = page.asarray(squeeze=False, maxworkers=1)
        # [planes 1 h w samples], where planes or samples is 1
        values = np.moveaxis(values[:, 0], 0, 2).reshape(*values.shape[2:4], -1)
        values = _to_full_range(page, values)
        alpha = _has_alpha(page)
        if alpha and page.extrasamples[0] == PREMULTIPLIED:
            values = _divide_by_alpha(values)
        return Pixels(_apply_orientation(values, _orientation(page)), alpha)


@contextmanager
def open_page(data: bytes | bytearray) -> Iterator["TiffPage"]:
    """Yield the file's only page after all checks."""
    try:
        import imagecodecs  # noqa: F401  # used by tifffile if installed
        import tifffile
    except ImportError:
        raise BadImage(TIFF_INSTALL_HINT) from None
    # tifffile logs every malformed tag; those that matter are checked here.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        # Without the special treatment of some microscopes' files.
        file = tifffile.TiffFile(io.BytesIO(data), is_lsm=False, is_ndpi=False, is_scanimage=False)
        with file:
            page = _only_page(file.pages)
            _check_header(page)
            _check_segments(page, data)
            yield page
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # damaged files raise errors of many types (KeyError, struct.error)
        raise undecodable(error) from None


def _only_page(pages) -> "TiffPage":
    """Only page that is no reduced copy or mask of another; copies in SubIFDs do not count."""
    full_pages = []
    for number in range(MAX_PAGES + 1):
        try:
            page = pages[number]
        except IndexError:
            break
        if not page.subfiletype & 0b101:
            full_pages.append(page)
    else:
        raise BadImage(f"holds more than {MAX_PAGES} pages, one expected; {SAVE_APART}")
    if len(full_pages) != 1:
        raise BadImage(f"holds {len(full_pages) or 'no'} pages, one expected; {SAVE_APART}")
    return full_pages[0]


def _check_header(page: "TiffPage") -> None:
    depth, samples = page.bitspersample, page.samplesperpixel
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise BadImage(f"is {page.imagedepth} images deep, one expected; {SAVE_APART}")
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
        raise BadImage(f"compression {_name_of(page.compression)}: one of {known} expected")
    if page.photometric not in COLOURS:
        raise BadImage(f"colours are {_name_of(page.photometric)}: gray, RGB, CMYK expected")
    if page.predictor not in (1, 2) or (page.predictor == 2 and depth not in (8, 16)):
        raise BadImage(f"predictor {_name_of(page.predictor)} of {depth} bits is not supported")
    if page.compression == LZW and page.fillorder != 1:
        raise BadImage("LZW of reversed bits is not supported")
    if page.photometric == YCBCR and page.compression != JPEG:
        raise BadImage("colours are YCbCr without JPEG: not supported")
    if page.compression == JPEG and (depth != 8 or page.photometric == CMYK):
        raise BadImage("JPEG inside a TIFF: 8 bits of gray or RGB expected")
    if page.photometric in (PALETTE, CMYK):
        if samples != COLOURS[page.photometric] or depth > 8:
            raise BadImage(f"{samples} channels of {depth} bits in palette or CMYK: not supported")
    elif samples < COLOURS[page.photometric]:
        raise BadImage(f"does not decode: RGB of {samples} channels")


def _check_segments(page: "TiffPage", data: bytes | bytearray) -> None:
    """Raise BadImage unless all strips or tiles are present, inside the file, and complete."""
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
    """Check a JPEG segment: libjpeg allocates the claimed size and fills missing data with gray."""
    check_jpeg(segment)
    limit = page.tilelength if page.is_tiled else page.rowsperstrip
    with open_image(io.BytesIO(segment)) as image:
        if image.height > limit or image.width > (page.tilewidth or page.imagewidth):
            raise BadImage("does not decode: a JPEG larger than its tile")
    # Markers end-of-image and start-of-scan, which do not occur in coded pixels.
    if segment.rfind(b"\xff\xd9") < segment.rfind(b"\xff\xda"):
        raise BadImage("does not decode: truncated")


def _to_full_range(page: "TiffPage", values: np.ndarray) -> np.ndarray:
    """Convert to the full range of uint8 or uint16, 0 black; palettes and CMYK to 8-bit RGB."""
    depth = page.bitspersample
    if page.photometric == PALETTE:
        table = np.asarray(page.tags.valueof(320)).reshape(3, 2**depth)
        return (table >> 8).astype(np.uint8).T[values[..., 0].astype(np.uint8)]
    if depth < 8:
        values = values.astype(np.uint8) * np.uint8(255 // (2**depth - 1))
    values = values.astype(np.uint8 if depth <= 8 else np.uint16)
    if page.photometric == CMYK:
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


def _divide_by_alpha(values: np.ndarray) -> np.ndarray:
    """Convert premultiplied to straight alpha, as Pillow does; colours are 0 where alpha is 0."""
    maximum = np.iinfo(values.dtype).max
    alpha = values[..., -1:].astype(np.uint32)
    colours = values[..., :-1].astype(np.uint32) * maximum // np.maximum(alpha, 1)
    colours = np.where(alpha == 0, 0, np.minimum(colours, maximum)).astype(values.dtype)
    return np.concatenate([colours, values[..., -1:]], axis=2)


def _orientation(page: "TiffPage") -> int:
    """Orientation tag (1 to 8): the corner of the first row and column; 1 where it is invalid."""
    orientation = page.tags.valueof(274, 1)
    return orientation if orientation in range(1, 9) else 1


def _apply_orientation(values: np.ndarray, orientation: int) -> np.ndarray:
    if orientation > 4:
        values = values.transpose(1, 0, 2)
    # Directions of rows and columns by TIFF's numbering of corners (TIFF 6.0, section 8).
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return values[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _name_of(number: int) -> str:
    return getattr(number, "name", str(int(number)))


def check_lzw(data: bytes | bytearray) -> None:
    """Raise BadImage for LZW data with codes that are not in the table of strings yet."""
    # Three bytes from any position on hold a whole code.
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
        # Without a mark the data ends here, or the table overflows.
        used = marks[0] if len(marks) else len(codes)
        if (codes[:used] > MAX_CODES[:used]).any() or used == len(MAX_CODES):
            raise BadImage("does not decode: wrong LZW code")
        if not len(marks) or codes[used] == END:
            return
        bit = int(places[used] + widths[used])
