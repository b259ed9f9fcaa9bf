import io
import time

import numpy as np
import pytest
from PIL import Image

from mae.decoding.decode import decode, read_info
from mae.decoding.jpeg import MAX_SCANS, check_jpeg, jpeg_header
from mae.decoding.on_device import jpeg_for_device
from mae.decoding.pixels import BadImage
from mae.pack.examine import examine
from tests.decoding.test_decode import encoded, refused


def with_scans(image, scans):
    """A progressive JPEG of so many scans: its last one again and again."""
    data = encoded(image, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    repeats = scans - data.count(b"\xff\xda")
    return data[:-2] + data[last:-2] * repeats + b"\xff\xd9"


def test_a_jpeg_of_endless_scans_is_refused_at_once():
    data = with_scans(Image.new("RGB", (6000, 4000)), 1000)
    assert len(data) < 250_000
    start = time.monotonic()
    for refuse in (refused, lambda data: refused(data, "jpg", 1)):
        assert refuse(data) == f"refused: 1,000 scans, more than {MAX_SCANS}; save it again"
    for call in (read_info, examine):
        with pytest.raises(BadImage, match="refused: 1,000 scans"):
            call(data, "jpg")
    assert jpeg_for_device(data, 3) is None
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_progressive_jpegs_of_encoders_are_read(picture, mode):
    image = picture.convert(mode)
    data = encoded(image, "JPEG", progressive=True, quality=95)
    assert 5 < data.count(b"\xff\xda") < MAX_SCANS
    assert decode(data, "jpg", 3).shape == (3, 60, 80)
    assert decode(with_scans(image, MAX_SCANS), "jpg", 3).shape == (3, 60, 80)
    assert refused(with_scans(image, MAX_SCANS + 1)).startswith("refused: 101 scans")


def test_markers_may_be_preceded_by_fill_bytes_and_garbage(picture):
    data = with_scans(picture, 300)
    frame = data.index(b"\xff\xc2")
    for padding in (b"\xff" * 7, b"\xff\0", b"garbage", b"\xff\xfe\0\x04\xff\xda"):
        padded = data[:frame] + padding + data[frame:]
        assert refused(padded) == f"refused: 300 scans, more than {MAX_SCANS}; save it again"


def test_scans_in_metadata_are_not_counted(picture):
    data = encoded(picture, "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xda" * 500)
    assert jpeg_header(data) is not None
    with_preview = encoded(picture, "JPEG") + b"\xff\xd8" + b"\xff\xda" * 500
    check_jpeg(with_preview)  # a baseline JPEG has one scan


def test_jpegs_of_twelve_bits_name_the_remedy():
    imagecodecs = pytest.importorskip("imagecodecs")
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    data = imagecodecs.jpeg_encode(values, bitspersample=12)
    assert refused(data, "jpg", 1).startswith(
        "JPEG of 12 bits a channel: 8 bits and lossy expected"
    )
    data = imagecodecs.ljpeg_encode(values >> 4)
    assert "convert it to PNG or TIFF" in refused(data, "jpg", 1)


def test_cut_headers_end(picture):
    data = encoded(picture, "JPEG", progressive=True)
    for end in range(2, 700, 7):
        check_jpeg(data[:end])
    check_jpeg(b"\xff\xd8" + b"\xff" * 100_000_000)
    check_jpeg(b"\xff\xd8" + b"\xff\xe0\0\0" * 1000)


def test_jpegs_inside_tiffs_are_bounded_too():
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((16, 16, 3), np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", compression="jpeg", tile=(16, 16))
    plain = file.getvalue()
    with tifffile.TiffFile(io.BytesIO(plain)) as tif:
        page = tif.pages[0]
        offset_at, size_at = (
            page.tags[name].valueoffset for name in ("TileOffsets", "TileByteCounts")
        )
    hostile = with_scans(Image.fromarray(pixels), 200)
    data = bytearray(plain + hostile)
    data[offset_at : offset_at + 4] = len(plain).to_bytes(4, "little")
    data[size_at : size_at + 4] = len(hostile).to_bytes(4, "little")
    assert (
        refused(bytes(data), "tif") == f"refused: 200 scans, more than {MAX_SCANS}; save it again"
    )
