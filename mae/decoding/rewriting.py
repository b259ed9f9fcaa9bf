"""Image files with other pixels: format, depth and metadata stay those of the original."""

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from mae.decoding.arrays import array_layout
from mae.decoding.decode import file_format, is_lossy
from mae.decoding.pillow import MODES, PNG_INSTALL_HINT
from mae.decoding.pixels import BadImage
from mae.decoding.png import SIGNATURE
from mae.decoding.tiff import (
    CMYK,
    COMPRESSIONS,
    JPEG,
    PALETTE,
    PREMULTIPLIED,
    STRAIGHT,
    WHITE_IS_ZERO,
    open_page,
)

Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

CMYK_NOTE = "CMYK became RGB, without its profile"
LOSSY = "written as PNG: a lossy format would add errors of its own"
OF_PIXELS = (b"tRNS", b"hIST", b"sPLT", b"acTL", b"fcTL", b"fdAT")
"""ancillary chunks of a PNG that belong to its old pixels"""
OF_COLOURS = (b"bKGD", b"sBIT")
"""ancillary chunks of a PNG whose content depends on the kind of its colours"""
OWN_TAGS = {
    *range(254, 260),  # kind of page, width, length, bits, compression
    *(262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 347),
    *(513, 514, 529, 530, 531, 532),  # JPEG, YCbCr
}
"""tags of a TIFF that describe its own pixels and layout; all others are kept"""
FOLDERS = {34665, 34853, 40965}
"""tags of a TIFF that point to further tags: EXIF, GPS"""
OF_INKS = {332, 333, 334, 336, 337, 34675}
"""tags of a TIFF about the inks of CMYK, and their profile"""
RESOLUTION = {282, 283, 296}
"""tags of a TIFF that tifffile writes from arguments of its own"""


class Rewritten(NamedTuple):
    """Content of an image file."""

    data: bytes
    extension: str
    note: str = ""
    """what differs from the original, for people"""


def rewrite(data: bytes, extension: str, values: Values) -> Rewritten:
    """The image file `data` with pixels `values` [h w c] as `decode_native` gives them.

    Lossless formats stay, lossy ones become PNG.  Raises BadImage where the file cannot be written.
    """
    try:
        format = file_format(data, extension)
        if format == "tiff":
            return _rewrite_tiff(data, extension, values)
        if format == "npy":
            return Rewritten(_rewrite_array(data, values), extension)
        if data[:8] == SIGNATURE:
            return Rewritten(_png_like(data, _png(values)), extension, _about_png(data))
        return _rewrite_picture(data, extension, values)
    except BadImage:
        raise
    except Exception as error:  # libraries raise errors of many types for odd metadata
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise BadImage(f"cannot be written again: {reason}") from None


def _rewrite_picture(data: bytes, extension: str, values: Values) -> Rewritten:
    """A file that Pillow writes, with what it keeps of the metadata."""
    with Image.open(io.BytesIO(data)) as original:
        kind, is_print = original.format, original.mode == "CMYK"
        names = ("exif", "xmp", *(() if is_print else ("icc_profile",)))
        kept = {name: original.info[name] for name in names if name in original.info}
        resolution = {"dpi": original.info["dpi"]} if "dpi" in original.info else {}
    notes = [CMYK_NOTE] * is_print
    if kind == "BMP" and values.shape[2] in (1, 3):
        return Rewritten(_saved(values, "BMP", **resolution), extension)
    if kind == "WEBP" and not is_lossy(data, extension):
        return Rewritten(_saved(values, "WEBP", lossless=True, exact=True, **kept), extension)
    kept.pop("xmp", None)  # Pillow writes none into a PNG
    notes += [LOSSY] * (kind != "BMP")
    return Rewritten(_saved(values, "PNG", **kept, **resolution), "png", "; ".join(notes))


def _about_png(data: bytes) -> str:
    """Note on properties of a PNG's old pixels that are not kept."""
    chunks = dict(_chunks(data))
    depth, colours = chunks[b"IHDR"][8], chunks[b"IHDR"][9]
    notes = ["its palette became colours"] * (colours == 3)
    notes += [f"{depth} bits became 8"] * (depth < 8 and colours != 3)
    return "; ".join(notes + ["its transparent colour was left out"] * (b"tRNS" in chunks))


def _png(values: Values) -> bytes:
    """PNG of 8 or 16 bits, without metadata."""
    if values.dtype == np.uint8:
        return _saved(values, "PNG")
    if values.shape[2] == 1:
        file = io.BytesIO()
        Image.fromarray(values[..., 0]).save(file, "PNG")
        return file.getvalue()
    try:
        import imagecodecs
    except ImportError:
        raise BadImage(PNG_INSTALL_HINT) from None
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))


def _saved(values: Values, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    squeezed = np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values)
    Image.fromarray(squeezed, MODES[values.shape[2]]).save(file, format, **options)
    return file.getvalue()


def _png_like(original: bytes, made: bytes) -> bytes:
    """The PNG `made` with the metadata of `original`, chunk by chunk."""
    new = list(_chunks(made))
    old_header = next(content for name, content in _chunks(original) if name == b"IHDR")
    same_colours = old_header[8:10] == new[0][1][8:10]
    kept = [
        (name, content)
        for name, content in _chunks(original)
        if name[:1].islower() and name not in OF_PIXELS and (same_colours or name not in OF_COLOURS)
    ]
    essential = [(name, content) for name, content in new[1:] if not name[:1].islower()]
    parts = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in (new[0], *kept, *essential)
    ]
    return SIGNATURE + b"".join(parts)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, content) of the chunks of a PNG up to IEND."""
    found, place = [], len(SIGNATURE)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        found.append((name, data[place + 8 : end]))
        place = end + 4
        if name == b"IEND":
            break
    return found


def _rewrite_array(data: bytes, values: Values) -> bytes:
    stored, axis = array_layout(data, values.shape[2])
    shaped = values[..., 0] if axis is None else np.moveaxis(values, 2, axis)
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(shaped, stored), allow_pickle=False)
    return file.getvalue()


def _rewrite_tiff(data: bytes, extension: str, values: Values) -> Rewritten:
    import tifffile

    with open_page(data) as page:
        compression = page.compression if page.compression != JPEG else 1
        depth, notes = page.bitspersample, []
        notes += ["JPEG inside the TIFF became uncompressed"] * (page.compression == JPEG)
        notes += [f"{depth} bits are kept in 16, values as they were"] * (8 < depth < 16)
        notes += [f"{depth} bits became 8"] * (depth < 8 and page.photometric != PALETTE)
        notes += ["its palette became colours"] * (page.photometric == PALETTE)
        notes += ["white is no longer 0"] * (page.photometric == WHITE_IS_ZERO)
        notes += [CMYK_NOTE] * (page.photometric == CMYK)
        notes += ["its EXIF was left out"] * (not FOLDERS.isdisjoint(page.tags.keys()))
        file = page.parent.filehandle
        left = {*OWN_TAGS, *RESOLUTION, *FOLDERS, *(OF_INKS if page.photometric == CMYK else ())}
        tags = []
        for tag in page.tags.values():
            if tag.code not in left:
                file.seek(tag.valueoffset)  # its bytes as they are: texts may be of any encoding
                value = file.read(tag.valuebytecount)
                tags.append((tag.code, int(tag.dtype), tag.count, value, True))
        across, down = (page.tags.valueof(code) for code in (282, 283))
        resolution = None
        if across and down and across[1] and down[1]:
            resolution = across[0] / across[1], down[0] / down[1]
        unit = page.tags.valueof(296)
        colours = values.shape[2] - len(page.extrasamples) * (values.shape[2] > 1)
        # Colours that were multiplied by alpha were divided by it when they were read.
        kinds = [STRAIGHT if kind == PREMULTIPLIED else int(kind) for kind in page.extrasamples]
        big, order = page.parent.is_bigtiff, page.parent.byteorder
        predictor = page.predictor == 2 and COMPRESSIONS[compression] in ("LZW", "deflate", "ZSTD")
    made = io.BytesIO()
    tifffile.imwrite(
        made,
        values[..., 0] if values.shape[2] == 1 else values,
        photometric="rgb" if colours == 3 else "minisblack",
        planarconfig="contig" if values.shape[2] > 1 else None,
        extrasamples=kinds if values.shape[2] > colours else None,
        compression=None if compression == 1 else compression,
        predictor=True if predictor else None,
        byteorder=order,
        bigtiff=big,
        resolution=resolution,
        resolutionunit=unit if resolution else None,
        metadata=None,
        software=False,
        extratags=tags,
    )
    return Rewritten(made.getvalue(), extension, "; ".join(notes))
