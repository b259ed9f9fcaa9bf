import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae.decoding.decode import decode, read_info
from mae.decoding.png import without_metadata
from tests.decoding.test_decode import deep, encoded, refused


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def with_chunks(data, *chunks):
    """A PNG with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


METADATA = {
    "a profile of 80 MB": [chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(80 << 20)))],
    "a text of 40 MB": [chunk(b"tEXt", b"xml\0" + b"x" * (40 << 20))],
    "a compressed text of 80 MB": [chunk(b"zTXt", b"xml\0\0" + zlib.compress(bytes(80 << 20)))],
    "many texts": [chunk(b"iTXt", b"key\0\0\0\0\0" + b"x" * 300_000)] * 300,
    "EXIF": [chunk(b"eXIf", bytes(10 << 20))],
    "broken metadata": [chunk(b"tIME", b"?"), chunk(b"iCCP", b""), chunk(b"zTXt", b"k\0\0broken")],
    "a private chunk": [chunk(b"prVt", bytes(1 << 20))],
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_is_no_reason_to_refuse_a_png(picture, kind):
    data = with_chunks(encoded(picture, "PNG"), *METADATA[kind])
    assert np.array_equal(decode(data, "png", 3).permute(1, 2, 0).numpy(), np.array(picture))
    assert read_info(data, "png")[:4] == (60, 80, 3, 8)
    values, data = deep(3)
    data = with_chunks(data, *METADATA[kind])
    assert np.array_equal(decode(data, "png", 3, 16).permute(1, 2, 0).numpy(), values)


def test_chunks_of_the_pixels_stay(picture):
    palette = picture.convert("P")
    palette.info["transparency"] = 3
    data = encoded(palette, "PNG")
    assert b"tRNS" in data and without_metadata(data) is data
    assert without_metadata(with_chunks(data, METADATA["many texts"][0])) == data
    other = picture.transpose(Image.Transpose.ROTATE_180)
    data = encoded(picture, "PNG", save_all=True, append_images=[other])
    assert refused(with_chunks(data, METADATA["EXIF"][0])).startswith("is animated: 2 frames")


def test_broken_pngs_stay_broken(picture):
    data = with_chunks(encoded(picture, "PNG"), METADATA["a private chunk"][0])
    for end in (20, 40, 1 << 19, (1 << 20) + 60, len(data) - 60):
        assert refused(data[:end]).startswith("does not decode: ")
    damaged = bytearray(data)
    damaged[-40] ^= 1
    assert refused(damaged).startswith("does not decode: ")
    size = with_chunks(encoded(picture, "PNG"), b"\xff\xff\xff\xfftEXt")
    assert refused(size).startswith("does not decode: ")


def test_a_bomb_is_refused_by_its_header(picture):
    data = bytearray(encoded(picture, "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert refused(with_chunks(bytes(data), METADATA["EXIF"][0])).startswith("refused: ")


def test_metadata_of_other_formats_is_no_reason_either(picture):
    tifffile = pytest.importorskip("tifffile")
    profile, exif = b"\0" * (12 << 20), b"Exif\0\0" + bytes(60_000)
    plain = {name: encoded(picture, name, quality=95) for name in ("JPEG", "WEBP", "AVIF")}
    for name, data in plain.items():
        options = {"icc_profile": profile} | ({} if name == "AVIF" else {"exif": exif})
        large = encoded(picture, name, quality=95, **options)
        assert len(large) > len(profile)
        for channels in (3, 1):
            same = decode(large, "", channels).equal(decode(data, "", channels))
            assert same, name
    cmyk = encoded(picture.convert("CMYK"), "JPEG", icc_profile=profile)
    assert decode(cmyk, "jpg", 3).shape == (3, 60, 80)
    file = io.BytesIO()
    extra = [(34675, 7, len(profile), profile, True), (37724, 7, 1 << 20, bytes(1 << 20), True)]
    pixels = np.array(picture)
    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb",
        description="x" * (20 << 20),
        metadata=None,
        extratags=extra,
    )
    assert np.array_equal(decode(file.getvalue(), "tif", 3).permute(1, 2, 0).numpy(), pixels)
