import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mae.data.decode import decode
from mae.data.manifest import build_manifest
from mae.data.pillow import BadImage, open_image
from mae.data.storage import ShardReader


@pytest.fixture(scope="module")
def picture(make_image):
    """An RGB image with structure, [60 h, 80 w]."""
    return Image.fromarray(make_image(7, (60, 80)))


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pillow(data, channels):
    """The referee: [h w c] as Pillow decodes and converts."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert({1: "L", 3: "RGB"}[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def difference(data, extension, channels):
    """Absolute differences from Pillow's pixels, after checking type and shape."""
    ours, theirs = decode(data, extension, channels), pillow(data, channels)
    assert ours.dtype == torch.uint8 and ours.shape == (channels, *theirs.shape[:2])
    return np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs)


def refused(data, extension="jpg", channels=3):
    with pytest.raises(BadImage) as error:
        decode(data, extension, channels)
    (line,) = str(error.value).splitlines()
    return line


def png(width, height, bits, color_type, raw):
    """A PNG by hand, for what Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    ihdr = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + raw for _ in range(height))
    idat = zlib.compress(lines)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "options", "channels", "mean", "most"),
    [
        ("RGB", {"quality": 90}, 3, 0, 0),
        ("RGB", {"quality": 75, "subsampling": 0}, 3, 0, 0),
        ("RGB", {"quality": 75, "subsampling": 2}, 3, 0, 0),
        ("RGB", {"progressive": True}, 3, 0, 0),
        ("L", {}, 1, 0, 0),
        ("L", {}, 3, 0, 0),
        ("RGB", {}, 1, 0.05, 3),  # luma as stored, not computed from rounded colours
        ("CMYK", {}, 3, 1.0, 2),  # another conversion of inks to colours
    ],
    ids=["rgb", "444", "420", "progressive", "gray", "gray-to-rgb", "rgb-to-gray", "cmyk"],
)
def test_jpeg_agrees_with_pillow(picture, mode, options, channels, mean, most):
    far = difference(encoded(picture.convert(mode), "JPEG", **options), "jpg", channels)
    assert far.mean() <= mean and far.max() <= most


def test_jpeg_agrees_with_the_image_it_was_made_from(picture):
    pixels = decode(encoded(picture, "JPEG", quality=95), "jpeg", 3).permute(1, 2, 0).numpy()
    assert np.abs(pixels.astype(int) - np.array(picture)).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_equals_pillow(picture, mode, channels):
    image = picture.convert(mode)
    if mode == "CMYK":  # no PNG has it
        image = image.convert("RGB")
    assert difference(encoded(image, "PNG"), "png", channels).max() == 0


def test_png_keeps_every_pixel(picture):
    pixels = decode(encoded(picture, "PNG"), "png", 3)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.array(picture))


def test_alpha_is_dropped_not_blended(picture):
    transparent = picture.copy()
    transparent.putalpha(0)
    pixels = decode(encoded(transparent, "PNG"), "png", 3)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.array(picture))


def test_a_palette_with_transparency_decodes_without_a_warning(picture):
    data = encoded(picture.convert("P"), "PNG", transparency=bytes([0, 128, 255]))
    assert decode(data, "png", 3).shape == (3, 60, 80)


def test_one_bit_is_black_and_white():
    data = png(10, 2, 1, 0, b"\xaa\x80")
    assert decode(data, "png", 1).unique().tolist() == [0, 255]


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_content_counts_not_the_extension(picture, extension, format):
    assert difference(encoded(picture, format), extension, 3).max() == 0


def test_exif_orientation_is_ignored(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert decode(encoded(picture, "JPEG", exif=exif), "jpg", 3).shape == (3, 60, 80)


def test_bytes_may_be_a_buffer(picture):
    for format in ("JPEG", "PNG"):
        data = encoded(picture, format)
        assert torch.equal(decode(bytearray(data), "jpg", 3), decode(data, "jpg", 3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "data",
    [
        png(4, 3, 16, 0, bytes(range(8))),
        png(4, 3, 16, 2, bytes(range(24))),
        png(4, 3, 16, 4, bytes(range(16))),
        png(4, 3, 16, 6, bytes(range(32))),
    ],
    ids=["gray", "rgb", "gray-alpha", "rgb-alpha"],
)
def test_sixteen_bits_are_refused_not_cut_to_eight(data, channels):
    assert refused(data, "png", channels).startswith("more than 8 bits a channel")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused(picture, progressive):
    data = encoded(picture, "JPEG", progressive=progressive)
    for end in [*range(0, len(data), 37), len(data) - 2, len(data) - 1]:
        assert refused(data[:end]).startswith("does not decode: "), end


def test_a_truncated_png_is_refused(picture):
    data = encoded(picture, "PNG")
    last_pixels = len(data) - 12 - 4 - 4  # the end chunk and two checksums follow
    for end in [*range(0, last_pixels, 37), last_pixels - 8]:
        assert refused(data[:end], "png").startswith("does not decode: "), end


@pytest.mark.parametrize("extension", ["jpg", "png"])
@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 1000, b"<html></html>" * 50, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"],
    ids=["empty", "zeros", "html", "jpeg-start", "png-start", "gif-start"],
)
def test_garbage_is_refused(data, extension):
    assert refused(data, extension).startswith("does not decode: ")


def test_damage_is_refused_or_decoded_but_never_crashes(picture):
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG"):
        whole = encoded(picture, format)
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 5)):
                data[rng.integers(len(data))] = rng.integers(256)
            try:
                assert decode(data, "jpg", 3).dtype == torch.uint8
            except BadImage as error:
                assert str(error)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.4, 0.9])  # Pillow warns up to twice its limit, then raises
def test_decompression_bombs_are_refused(picture, monkeypatch, format, share):
    data = encoded(picture, format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 80)
    assert decode(data, "jpg", 3).shape == (3, 60, 80)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(share * 60 * 80))
    assert refused(data).startswith("refused: Image size (4800 pixels) exceeds limit")


def test_a_png_that_claims_to_be_huge_is_refused():
    assert refused(png(50_000, 50_000, 8, 0, b"")[:60], "png").startswith("refused: Image size")


def test_without_a_limit_large_images_decode(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(encoded(picture, "JPEG"), "jpg", 3).shape == (3, 60, 80)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channel_counts_are_refused(picture, channels):
    message = refused(encoded(picture, "JPEG"), "jpg", channels)
    assert message == f"JPEG and PNG have 1 or 3 channels, not {channels}"


def test_open_image_reads_the_header_alone(picture, tmp_path):
    path = tmp_path / "a.jpg"
    data = encoded(picture, "JPEG")
    path.write_bytes(data[:-100])
    with open_image(path) as image:
        assert image.size == (80, 60)
    with pytest.raises(BadImage, match="truncated"), open_image(path) as image:
        image.load()


def test_real_photographs_agree_with_pillow(shared_data, tmp_path):
    manifest = build_manifest([f"{shared_data}/clothing/test-000000.tar"], index_dir=tmp_path)
    reader = ShardReader(manifest)
    for sample in range(5):
        assert difference(bytes(reader.read(sample)), "jpg", 3).mean() <= 0.5
