import io
import struct
import subprocess
import sys
import tarfile
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mae.decoding.decode import decode, decode_native, read_info
from mae.decoding.pixels import BadImage


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pillow(data, channels):
    """Reference: [h w c] as Pillow decodes and converts."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert({1: "L", 3: "RGB"}[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def difference(data, extension, channels):
    """Absolute differences from Pillow's pixels, after checking type and shape."""
    ours, theirs = decode(data, extension, channels), pillow(data, channels)
    assert ours.dtype == torch.uint8 and ours.shape == (channels, *theirs.shape[:2])
    return np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs)


def refused(data, extension="jpg", channels=3, bits=8):
    with pytest.raises(BadImage) as error:
        decode(data, extension, channels, bits)
    (line,) = str(error.value).splitlines()
    return line


def png(width, height, bits, color_type, raw):
    """PNG file for kinds that Pillow does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    ihdr = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + raw for _ in range(height))
    idat = zlib.compress(lines)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


DEEP = {"gray": 1, "gray-alpha": 2, "rgb": 3, "rgb-alpha": 4}


def deep(channels, size=(5, 7)):
    """[h w c] uint16 and its PNG."""
    values = np.random.default_rng(3).integers(0, 65536, (*size, channels), dtype=np.uint16)
    return values, imagecodecs.png_encode(values[..., 0] if channels == 1 else values)


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
        ("RGB", {"keep_rgb": True}, 3, 0, 0),
        ("RGB", {"keep_rgb": True}, 1, 0.5, 1),
        ("CMYK", {}, 3, 0, 0),
        ("CMYK", {}, 1, 0, 0),
    ],
    ids=[
        *("rgb", "444", "420", "progressive", "gray", "gray-to-rgb", "rgb-to-gray"),
        *("stored-as-rgb", "stored-as-rgb-to-gray", "cmyk", "cmyk-to-gray"),
    ],
)
def test_jpeg_agrees_with_pillow(picture, mode, options, channels, mean, most):
    far = difference(encoded(picture.convert(mode), "JPEG", **options), "jpg", channels)
    assert far.mean() <= mean and far.max() <= most


def test_jpeg_is_close_to_its_source_image(picture):
    pixels = decode(encoded(picture, "JPEG", quality=95), "jpeg", 3).permute(1, 2, 0).numpy()
    assert np.abs(pixels.astype(int) - np.array(picture)).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_equals_pillow(picture, mode, channels):
    image = picture.convert(mode)
    if mode == "CMYK":  # no PNG has it
        image = image.convert("RGB")
    assert difference(encoded(image, "PNG"), "png", channels).max() == 0


def test_png_is_lossless(picture):
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
def test_format_is_detected_from_the_content(picture, extension, format):
    assert difference(encoded(picture, format), extension, 3).max() == 0


def test_exif_orientation_is_ignored(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert decode(encoded(picture, "JPEG", exif=exif), "jpg", 3).shape == (3, 60, 80)


def test_bytearray_decodes_like_bytes(picture):
    for format in ("JPEG", "PNG"):
        data = encoded(picture, format)
        assert torch.equal(decode(bytearray(data), "jpg", 3), decode(data, "jpg", 3))


def test_ycck_equals_pillow():
    """Adobe's YCCK (inverted CMYK as luma and chroma)."""
    inks = np.random.default_rng(0).integers(0, 256, (60, 80, 4), dtype=np.uint8)
    data = imagecodecs.jpeg_encode(inks, colorspace="cmyk", outcolorspace="ycck")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK" and image.info["adobe_transform"] == 2
    assert difference(data, "jpg", 3).max() == 0
    assert refused(data, "jpg", 4) == "has 3 channels, but data.in_chans is 4"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_low_bit_depth_gray_is_scaled_to_the_full_range(bits):
    levels = 2**bits
    packed = np.packbits(
        np.unpackbits(np.arange(levels, dtype=np.uint8)[:, None], axis=1)[:, -bits:]
    )
    data = png(levels, 1, bits, 0, packed.tobytes())
    expected = np.arange(levels) * 255 // (levels - 1)
    assert decode(data, "png", 1).flatten().tolist() == expected.tolist()
    assert read_info(data, "png")[:4] == (1, levels, 1, 8)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_eight_bits_widen_exactly(picture, format):
    data = encoded(picture, format)
    wide, narrow = decode(data, "jpg", 3, 16), decode(data, "jpg", 3)
    assert wide.dtype == torch.uint16
    assert np.array_equal(wide.numpy(), narrow.numpy().astype(int) * 257)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_webp_equals_pillow(picture, mode, channels, lossless):
    data = encoded(picture.convert(mode), "WEBP", lossless=lossless)
    assert difference(data, "webp", channels).max() == 0


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("P", 3), ("RGB", 3), ("LA", 2), ("RGBA", 4)]
)
def test_native_channels(picture, mode, channels):
    image = picture.convert(mode)
    data = encoded(image, "PNG")
    assert read_info(data, "png") == (60, 80, channels, 8, mode in ("LA", "RGBA"))
    native = decode_native(data, "png")
    assert native.shape == (channels, 60, 80) and native.dtype == torch.uint8
    expected = np.array(image.convert({"1": "L", "P": "RGB"}.get(mode, mode)))
    assert np.array_equal(native.permute(1, 2, 0).numpy().reshape(expected.shape), expected)
    assert torch.equal(decode(data, "png", channels), native)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpeg_header_has_size_and_channels(picture, mode, channels):
    data = encoded(picture.convert(mode), "JPEG", quality=95)
    assert read_info(data, "jpg")[:4] == (60, 80, channels, 8)
    assert read_info(data[: len(data) // 2], "jpg")[:4] == (
        60,
        80,
        channels,
        8,
    )  # the header suffices
    assert decode_native(data, "jpg").shape == (channels, 60, 80)


def test_pixels_are_channels_last_and_writable(picture):
    for extension, data in valid_files(picture).items():
        pixels = decode(data, extension, 3, 16)
        assert pixels.permute(1, 2, 0).is_contiguous()
        pixels[0, 0, 0] = 7


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_refused(picture, progressive):
    data = encoded(picture, "JPEG", progressive=progressive)
    for end in [*range(0, len(data), 37), len(data) - 2, len(data) - 1]:
        assert refused(data[:end]).startswith("does not decode: "), end


def test_truncated_png_is_refused(picture):
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


def test_random_damage_never_crashes(picture):
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


def test_huge_png_is_refused_by_its_header():
    assert refused(png(50_000, 50_000, 8, 0, b"")[:60], "png").startswith("refused: Image size")


def test_without_a_limit_large_images_decode(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(encoded(picture, "JPEG"), "jpg", 3).shape == (3, 60, 80)


@pytest.mark.parametrize("channels", [0, 2, 4, 7])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_other_channel_counts_are_refused(picture, format, channels):
    message = refused(encoded(picture, format), "jpg", channels)
    assert message == f"has 3 channels, but data.in_chans is {channels}"


def test_photographs_agree_with_pillow(shared_data):
    with tarfile.open(shared_data / "clothing" / "test-000000.tar") as tar:
        photographs = [member for member in tar if member.name.endswith((".jpg", ".jpeg"))]
        for member in photographs[:5]:
            file = tar.extractfile(member)
            assert file and difference(file.read(), "jpg", 3).mean() <= 0.5


CLAIMS = """
import resource, sys
from pathlib import Path
from mae.decoding.decode import decode, read_info
from mae.decoding.pixels import BadImage
folder = Path(sys.argv[1])
for whole in folder.glob("whole.*"):
    decode(whole.read_bytes(), whole.suffix[1:], 1)  # imports everything
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 32 * 2**20,) * 2)
for claim in sorted(folder.glob("claim-*")):
    for read in (decode, read_info):
        try:
            read(claim.read_bytes(), claim.suffix[1:], *[1] * (read is decode))
            raise SystemExit(f"{claim.name} was not refused")
        except BadImage as error:
            assert str(error).startswith("refused: "), (claim.name, error)
print("all refused")
"""


def tiff_claiming(side):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16), np.uint8), compression="zlib")
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        places = [tiff.pages.first.tags[code].offset for code in (256, 257, 278)]
    for place in places:  # type: 4 bytes; count 1; the value
        data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


def npy_claiming(side):
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (side, side)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(100)


def webp_claiming(side):
    body = b"VP8X" + struct.pack("<IB3x", 10, 0) + 2 * (side - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + bytes(50)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the allocated memory from /proc")
def test_huge_images_are_refused_without_allocating_memory(picture, tmp_path):
    claims = [
        ("png", png(50_000, 50_000, 8, 0, b"")),
        ("png", png(9_500, 9_500, 8, 0, b"")),  # just above the limit
        ("tif", tiff_claiming(2**31)),
        ("tif", tiff_claiming(9_500)),
        ("npy", npy_claiming(10**9)),
        ("npy", npy_claiming(9_500)),
        ("webp", webp_claiming(2**24)),
        ("webp", webp_claiming(9_500)),
    ]
    for extension, data in valid_files(picture.convert("L")).items():
        (tmp_path / f"whole.{extension}").write_bytes(data)
    for number, (extension, data) in enumerate(claims):
        (tmp_path / f"claim-{number}.{extension}").write_bytes(data)
    command = [sys.executable, "-c", CLAIMS, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout == "all refused\n", run.stderr


def valid_files(picture):
    """One file of each format, by extension."""
    values = np.array(picture)
    tiff, strips, npy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff, values, compression="lzw", predictor=True, tile=(32, 32))
    tifffile.imwrite(strips, values, compression="jpeg", rowsperstrip=16)
    np.save(npy, values)
    return {
        "jpg": encoded(picture, "JPEG"),
        "png": encoded(picture, "PNG"),
        "webp": encoded(picture, "WEBP"),
        "tif": tiff.getvalue(),
        "tiff": strips.getvalue(),
        "npy": npy.getvalue(),
    }


@pytest.fixture(scope="module")
def files(picture):
    return valid_files(picture) | {"": deep(3, (60, 80))[1]}


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "tiff", "npy", ""])
@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_decode_or_are_refused(files, extension, data):
    damaged = bytearray(files[extension])
    places = st.integers(0, len(damaged) - 1) | st.integers(
        -400, 400
    )  # headers and trailers more often
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place % len(damaged)] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))]
    try:
        pixels = decode(damaged, extension, 3, 16)
        assert pixels.dtype == torch.uint16 and pixels.shape[0] == 3
    except BadImage as error:
        assert str(error) and "\n" not in str(error)
    try:
        info, native = read_info(damaged, extension), decode_native(damaged, extension)
        assert native.shape == (info.channels, info.height, info.width)
        assert native.dtype == {8: torch.uint8, 16: torch.uint16}[info.bits]
    except BadImage:
        pass
