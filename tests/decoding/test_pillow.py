import io
import struct
import sys
import zlib
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image

from mae.decoding.decode import decode, decode_native, read_info
from mae.decoding.pillow import has_transparent_colour, is_lossy, open_image
from mae.decoding.pixels import READ_FORMATS, BadImage
from tests.decoding.test_decode import DEEP, deep, encoded, refused


@pytest.mark.parametrize("stored", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused_where_eight_are_requested(stored, channels):
    message = refused(deep(stored)[1], "png", channels)
    assert message == "16 bits a channel, but data.bits is 8"


@pytest.mark.parametrize("stored", DEEP.values(), ids=DEEP)
def test_sixteen_bit_png_is_exact(stored):
    values, data = deep(stored)
    for pixels in (decode(data, "png", stored, 16), decode_native(data, "png")):
        assert pixels.dtype == torch.uint16
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), values)
    assert read_info(data, "png")[:4] == (5, 7, stored, 16)
    colours = values[..., : 1 if stored < 3 else 3]
    rgb = decode(data, "png", 3, 16).permute(1, 2, 0).numpy()
    assert np.array_equal(rgb, np.broadcast_to(colours, rgb.shape))
    gray = decode(data, "png", 1, 16)[0].numpy()
    luma = np.rint(colours @ [0.299, 0.587, 0.114]) if stored > 2 else colours[..., 0]
    assert np.abs(gray - luma).max() <= 1


def test_transparent_colour_of_a_sixteen_bit_png_is_ignored():
    values, data = deep(3)
    body = b"tRNS" + values[0, 0].astype(">u2").tobytes()
    chunk = struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body))
    data = data[:33] + chunk + data[33:]
    assert np.array_equal(decode(data, "png", 3, 16).permute(1, 2, 0).numpy(), values)


def png_with_colour(color_type, bits, line, colour, palette=b""):
    """PNG of one line, with the chunk tRNS."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    width = 8 * len(line) // (bits * (3 if color_type == 2 else 1))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, color_type, 0, 0, 0))
    colours = (chunk(b"PLTE", palette) if palette else b"") + chunk(b"tRNS", colour)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + line))
    return b"\x89PNG\r\n\x1a\n" + head + colours + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("color_type", "bits", "line", "clear", "opaque"),
    [
        (0, 1, b"\x00", b"\0\0", b"\0\1"),
        (0, 2, b"\x1b\x1a", b"\0\3", None),
        (0, 2, b"\x1a\x1a", b"\0\2", b"\0\3"),
        (0, 4, b"\x12\x34", b"\0\3", b"\0\5"),
        (0, 8, b"\x12\x34", b"\0\x34", b"\0\x35"),
        (0, 16, b"\x12\x34\x56\x78", b"\x56\x78", b"\x56\x77"),
        (2, 8, b"abcdef", b"\0d\0e\0f", b"\0d\0e\0c"),
        (2, 16, b"abcdefghijkl", b"ghijkl", b"ghijkm"),
        (3, 8, b"\0\1\2", b"\xff\x80", b"\xff\xff\xff\0"),
        (3, 8, b"\0\1\2", b"\xff\xff\0", b"\xff\xff\xff"),
        (3, 2, b"\x00", b"\0", b"\xff\0"),
    ],
)
def test_transparent_colours_of_a_png_are_those_of_libpng(color_type, bits, line, clear, opaque):
    palette = bytes(range(12)) if color_type == 3 else b""
    for colour in (clear, opaque):
        if colour is not None:
            data = png_with_colour(color_type, bits, line, colour, palette)
            alpha = imagecodecs.png_decode(data)[..., -1]
            assert has_transparent_colour(data) == (alpha < np.iinfo(alpha.dtype).max).any()
            assert has_transparent_colour(data) == (colour == clear)


def test_truncated_sixteen_bit_png_is_refused():
    for stored in DEEP.values():
        _, data = deep(stored, (50, 70))
        for end in (40, 60, len(data) // 2, len(data) - 100):
            assert refused(data[:end], "png", stored, 16).startswith("does not decode: ")


def test_damaged_sixteen_bit_png_is_refused(capfd):
    _, data = deep(3, (50, 70))
    for place in range(60, len(data) - 16, 997):
        damaged = bytearray(data)
        damaged[place] ^= 1
        assert refused(damaged, "png", 3, 16).startswith("does not decode: broken PNG file")
    assert capfd.readouterr() == ("", "")  # no warnings of libpng


def test_missing_imagecodecs_is_reported_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert decode(deep(1)[1], "png", 1, 16).dtype == torch.uint16  # needs Pillow alone
    message = refused(deep(3)[1], "png", 3, 16)
    assert message == "16-bit colour PNG needs imagecodecs: pip install 'maekit[formats]'"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(picture, format):
    other = picture.transpose(Image.Transpose.ROTATE_180)
    data = encoded(picture, format, save_all=True, append_images=[other])
    assert refused(data) == "is animated: 2 frames; save one, or each, as a file of its own"
    with pytest.raises(BadImage, match="animated"):
        read_info(data, format.lower())


def test_second_picture_in_a_jpeg_is_ignored(picture):
    other = picture.transpose(Image.Transpose.ROTATE_180)
    data = encoded(picture, "MPO", save_all=True, append_images=[other], quality=90)
    assert torch.equal(decode(data, "jpg", 3), decode(encoded(picture, "JPEG", quality=90), "", 3))


@pytest.mark.parametrize(("format", "name"), [("GIF", "GIF"), ("DDS", "DDS"), ("QOI", "QOI")])
def test_other_formats_under_the_name_of_one_that_is_read(picture, format, name):
    message = f"does not decode: holds {name}, convert it to one of {READ_FORMATS}"
    assert refused(encoded(picture, format)) == message


@pytest.mark.parametrize("format", ["TGA", "PPM", "EPS"])
def test_pillows_other_formats_are_refused(picture, format):
    assert refused(encoded(picture, format)) == (
        "does not decode: no image inside (JPEG, PNG, WEBP, BMP, AVIF)"
    )


def test_is_lossy(picture):
    alpha = picture.convert("RGBA")
    alpha.putalpha(99)
    for image in (picture, alpha):
        assert is_lossy(encoded(image, "WEBP"))
        for data in (encoded(image, "WEBP", lossless=True), encoded(image, "PNG")):
            assert not is_lossy(data)
    assert is_lossy(encoded(picture, "JPEG"))
    for data in (b"", b"RIFF", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X\xff\xff\xff\xff"):
        assert not is_lossy(data)


def test_open_image_reads_the_header_alone(picture, tmp_path):
    path = tmp_path / "a.jpg"
    data = encoded(picture, "JPEG")
    path.write_bytes(data[:-100])
    with open_image(path) as image:
        assert image.size == (80, 60)
    with pytest.raises(BadImage, match="truncated"), open_image(path) as image:
        image.load()


# BMP and AVIF


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_bmp_is_exact(picture, mode):
    stored = picture.convert(mode)
    data = encoded(stored, "BMP")
    expected = np.array(stored.convert("RGB"))
    for extension in ("bmp", "dib", "jpg"):  # the content decides
        found = decode(data, extension, 3).permute(1, 2, 0).numpy()
        assert np.array_equal(found, expected)
    assert read_info(data, "bmp")[:2] == (60, 80)
    assert not is_lossy(data)


def test_cut_and_oversized_bmps_are_refused(picture):
    data = encoded(picture, "BMP")
    for end in (1, 10, 40, len(data) // 2):
        assert refused(data[:end], "bmp").startswith("does not decode: ")
    huge = bytearray(data)
    huge[18:26] = struct.pack("<ii", 60_000, 60_000)
    assert refused(huge, "bmp").startswith("refused: ")


def test_avif_is_read_as_pillow_reads_it(picture):
    faint = picture.copy()
    faint.putalpha(200)
    for stored, channels in ((picture, 3), (picture.convert("L"), 1), (faint, 4)):
        data = encoded(stored, "AVIF", quality=90)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.array(image.convert("RGB"))
        for extension in ("avif", "jpg"):
            found = decode(data, extension, 3).permute(1, 2, 0).numpy()
            assert np.array_equal(found, expected)
        assert np.abs(found - np.array(stored.convert("RGB"), float)).mean() < 4
        assert read_info(data, "avif")[:4] == (60, 80, channels, 8)
        assert is_lossy(data)


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif_is_refused_and_not_cut_to_eight_bits(bits):
    imagecodecs = pytest.importorskip("imagecodecs")
    if not imagecodecs.AVIF.available:
        pytest.skip("imagecodecs without AVIF")
    values = np.random.default_rng(0).integers(0, 1 << bits, (16, 24, 3), np.uint16)
    data = imagecodecs.avif_encode(values, bitspersample=bits)
    assert refused(data, "avif") == (
        f"{bits} bits a channel: AVIF is read with 8; convert to a 16-bit PNG or TIFF"
    )


def test_animated_cut_and_foreign_avifs_are_refused(picture):
    other = picture.transpose(Image.Transpose.ROTATE_180)
    data = encoded(picture, "AVIF", save_all=True, append_images=[other])
    assert refused(data, "avif").startswith("is animated: 2 frames")
    data = encoded(picture, "AVIF")
    for end in (11, 12, 40, len(data) - 50):
        assert refused(data[:end], "avif").startswith("does not decode: ")
    heic = bytes(4) + b"ftypheic" + bytes(100)
    for extension in ("avif", "jpg"):
        message = f"does not decode: holds HEIF, convert it to one of {READ_FORMATS}"
        assert refused(heic, extension) == message


def test_missing_avif_is_reported_with_its_install_command(picture, monkeypatch):
    data = encoded(picture, "AVIF")
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    assert refused(data, "avif") == (
        "AVIF needs Pillow's own wheel, with AVIF: pip install 'pillow>=11.3'"
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "AVIF"])
def test_damaged_headers_raise_bad_image_alone(picture, format):
    data = encoded(picture, format)
    random = np.random.default_rng(0)
    refusals = 0
    for _ in range(600):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 300), 3):
            damaged[place] = random.integers(256)
        try:
            decode_native(bytes(damaged), format.lower())
        except BadImage as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals > 100


def test_jpegs_of_any_sampling_decode_or_are_refused(picture):
    """simplejpeg raises a KeyError for some."""
    data = bytearray(encoded(picture, "JPEG"))
    frame = data.index(b"\xff\xc0")
    for sampling in range(0x11, 0x45):
        data[frame + 11] = sampling
        with suppress(BadImage):
            decode(data, "jpg", 3)
            read_info(data, "jpg")
