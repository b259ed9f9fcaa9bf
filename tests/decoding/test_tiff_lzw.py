import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mae.decoding.pixels import BadImage
from mae.decoding.tiff import CLEAR, END, check_lzw


def packed(codes):
    """Pack LZW codes, most significant bit first; code widths count from a leading CLEAR."""
    widths = [9] + 254 * [9] + 512 * [10] + 1024 * [11] + 4000 * [12]
    text = "".join(f"{code:0{width}b}" for code, width in zip(codes, widths, strict=False))
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def samples():
    rng = np.random.default_rng(0)
    yield b""
    yield b"a"
    yield bytes(300_000)  # the longest possible strings
    for size in (10, 250, 260, 1_000, 4_000, 5_000, 100_000):
        yield rng.integers(0, 256, size, np.uint8).tobytes()
        yield rng.integers(0, 4, size, np.uint8).tobytes()


@pytest.mark.parametrize("raw", list(samples()), ids=len)
def test_data_of_imagecodecs_passes(raw):
    data = imagecodecs.lzw_encode(raw)
    check_lzw(data)
    assert imagecodecs.lzw_decode(data, out=len(raw) + 1) == raw


@pytest.mark.parametrize("levels", [1, 4, 256])
def test_data_of_libtiff_passes(levels):
    values = np.random.default_rng(0).integers(0, levels, (300, 400), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", compression="tiff_lzw")
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            check_lzw(file.getvalue()[offset : offset + size])


@pytest.mark.parametrize(
    "codes",
    [
        [CLEAR, 508, 258],
        [CLEAR, 258, END],
        [CLEAR, 65, 259, END],
        [CLEAR, 65, 258, 260, END],
        [CLEAR, 65, 66, CLEAR, 258, END],
    ],
    ids="far first ahead later after-clear".split(),
)
def test_codes_beyond_the_table_are_refused(codes):
    with pytest.raises(BadImage, match="wrong LZW code"):
        check_lzw(packed(codes))


@pytest.mark.parametrize(
    "codes", [[CLEAR, END], [CLEAR, 65, 258, 259, END], [CLEAR, 65, CLEAR, CLEAR, 66, END], [CLEAR]]
)
def test_codes_in_the_table_pass(codes):
    check_lzw(packed(codes))


@pytest.mark.parametrize("data", [b"", b"\x80", packed([65, 66, END]), bytes(100)])
def test_data_without_leading_clear_code_is_refused(data):
    with pytest.raises(BadImage, match="without a start"):
        check_lzw(data)


def test_overflowing_table_is_refused():
    full = 4096 - 258 + 1
    check_lzw(packed([CLEAR, *range(256), *[65] * (full - 257), CLEAR]))
    with pytest.raises(BadImage, match="wrong LZW code"):
        check_lzw(packed([CLEAR, *range(256), *[65] * (full + 10)]))
