import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae.decoding.mask_files import COLOUR, GRAY, PALETTE, orientation, read_mask
from mae.decoding.pillow import BadImage

CLASSES = np.array([[0, 3], [255, 7]], np.uint8)


def saved(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def low_depth(bits, colour_type, row):
    """PNG of one row of four pixels, `bits` each."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", 4, 1, bits, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2 ** min(bits, 8)))) if colour_type == 3 else b""
    body = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "values"),
    [(1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\xfe", [0, 1, 15, 14])],
)
def test_low_depths_keep_their_numbers(bits, row, values):
    """Pillow scales gray of 2 and 4 bits to 0–255."""
    gray = read_mask(low_depth(bits, 0, row))
    assert (gray.kind, gray.top, gray.values[0].tolist()) == (GRAY, 2**bits - 1, values)
    palette = read_mask(low_depth(bits, 3, row))
    assert (palette.kind, palette.values[0].tolist()) == (PALETTE, values)
    assert palette.colours()[0, 1] == 0x030405


def test_each_mode_is_read_as_stored():
    gray = read_mask(saved(Image.fromarray(CLASSES)))
    assert (gray.kind, gray.top, gray.lossy) == (GRAY, 255, False)
    assert gray.values.tolist() == CLASSES.tolist()
    deep = read_mask(saved(Image.fromarray(CLASSES.astype(np.uint16) * 257)))
    assert (deep.kind, deep.top, deep.values.max()) == (GRAY, 65_535, 65_535)
    palette = Image.fromarray(CLASSES, "L").convert("P")
    palette.putdata(CLASSES.flatten().tolist())
    palette.putpalette([255, 0, 0] * 256)
    found = read_mask(saved(palette))
    assert found.kind == PALETTE and found.values.tolist() == CLASSES.tolist()
    assert (found.colours() == 0xFF0000).all()
    plain = Image.fromarray(CLASSES, "L").convert("P")
    assert read_mask(saved(plain)).values.tolist() == CLASSES.tolist()
    colour = np.stack([CLASSES, 0 * CLASSES, 0 * CLASSES], axis=2)
    for image in (Image.fromarray(colour), Image.fromarray(colour).convert("RGBA")):
        found = read_mask(saved(image))
        assert found.kind == COLOUR and found.values[0, 1] == 3 << 16
    for mode in ("RGB", "RGBA", "LA"):
        found = read_mask(saved(Image.fromarray(CLASSES).convert(mode)))
        assert found.kind == GRAY and found.values.tolist() == CLASSES.tolist()
        assert found.colours()[0, 1] == 0x030303
    assert read_mask(saved(Image.fromarray(CLASSES), "JPEG")).lossy


def test_unusable_files_are_refused():
    clear = np.zeros((2, 2, 4), np.uint8)
    first, second = Image.fromarray(CLASSES), Image.fromarray(255 - CLASSES)
    for data, line in (
        (b"no picture", "does not decode"),
        (saved(Image.fromarray(clear)), "has transparent pixels"),
        (low_depth(16, 2, bytes(24)), "has 16-bit colours"),
        (saved(first, save_all=True, append_images=[second]), "is animated: 2 frames"),
    ):
        with pytest.raises(BadImage, match=line):
            read_mask(data)


def test_orientation_is_that_of_exif():
    image = Image.new("L", (4, 2))
    exif = Image.Exif()
    assert orientation(saved(image, "JPEG")) == orientation(b"\xff\xd8 no picture") == 1
    for turn in (1, 3, 6):
        exif[0x0112] = turn
        assert orientation(saved(image, "JPEG", exif=exif)) == turn
        assert orientation(saved(image, "PNG", exif=exif)) == turn
    exif[0x0112] = 99
    assert orientation(saved(image, "JPEG", exif=exif)) == 1
