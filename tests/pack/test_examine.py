import io

import numpy as np
import pytest
import torch
from PIL import Image

from mae.decoding.pixels import BadImage
from mae.pack.examine import difference_hash, examine


def encode(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def picture():
    grain = np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8)
    return Image.fromarray(grain).resize((200, 160), Image.Resampling.BICUBIC)


def distance(a, b):
    return (a ^ b).bit_count()


def test_size_channels_and_bits(picture):
    assert examine(encode(picture), "jpg").info[:4] == (160, 200, 3, 8)
    assert examine(encode(picture.convert("L"), "PNG"), "png").info[:4] == (160, 200, 1, 8)


def test_hash_is_robust_to_compression_size_and_colour(picture):
    expected = examine(encode(picture, "PNG"), "png").hash
    assert expected is not None
    for other in (picture.resize((80, 70)), picture.convert("L"), picture.resize((400, 300))):
        for format in ("PNG", "JPEG", "WEBP"):
            found = examine(encode(other, format), {"JPEG": "jpg"}.get(format, format.lower())).hash
            assert found is not None and distance(expected, found) <= 3
    assert distance(expected, examine(encode(picture.rotate(180)), "jpg").hash or 0) > 10


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_hash_ignores_alpha(picture, mode):
    image = picture.convert(mode)
    expected = examine(encode(image, "PNG"), "png").hash
    image.putalpha(picture.convert("L").rotate(180))
    assert expected is not None and examine(encode(image, "PNG"), "png").hash == expected


def test_hash_ignores_bit_depth(picture):
    pixels = np.asarray(picture.convert("L"))
    hashes = []
    for array in (pixels, pixels.astype(np.uint16) * 257):
        file = io.BytesIO()
        np.save(file, array)
        hashes.append(examine(file.getvalue(), "npy").hash)
    assert hashes[0] is not None and hashes[0] == hashes[1]


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_hash_of_fewer_bits_stored_in_sixteen(picture, bits):
    eight = examine(encode(picture.convert("L"), "PNG"), "png")
    pixels = np.asarray(picture.convert("L")).astype(np.uint16) << (bits - 8)
    file = io.BytesIO()
    np.save(file, pixels)
    found = examine(file.getvalue(), "npy")
    assert distance(eight.hash, found.hash or 0) <= 3
    assert found.deviation == pytest.approx(eight.deviation / 2 ** (16 - bits), rel=0.01)


@pytest.mark.parametrize(
    "gray",
    [
        torch.zeros(40, 40),
        torch.ones(40, 40),
        torch.linspace(0, 1, 40).expand(40, 40),
        torch.linspace(0, 1, 40).expand(40, 40).T,
        torch.linspace(0, 1, 40).sin().expand(40, 40),
        0.5 + 0.01 * torch.rand(40, 40, generator=torch.Generator().manual_seed(0)),
        torch.zeros(1, 1),
    ],
    ids=["black", "white", "ramp", "steps", "stripes", "faint", "dot"],
)
def test_images_without_structure_have_no_hash(gray):
    assert difference_hash(gray[None]) is None


def test_hole_is_detected_anywhere_in_the_compressed_data(picture):
    data = encode(picture, quality=95)
    start = data.index(b"\xff\xda")
    assert len(data) - start > 4000
    for low in (start + 700, start + 2500, len(data) - 900):
        holed = data[:low] + bytes(600) + data[low + 600 :]
        with pytest.raises(BadImage, match=r"a hole of 6.. zero bytes"):
            examine(holed, "jpg")
    with pytest.raises(BadImage, match="a hole of"):
        examine(data[: len(data) // 2] + bytes(len(data) // 2), "jpg")


def test_zeros_outside_of_the_compressed_data_are_no_hole(picture):
    metadata = b"Exif\0\0" + bytes(5000)
    data = encode(picture, exif=metadata, progressive=True)
    assert bytes(4000) in data
    assert examine(data + bytes(5000), "jpg").info.width == 200


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8" + b"\xff" * 900])
def test_stubs_are_refused(data):
    with pytest.raises(BadImage):
        examine(data, "jpg")


def test_cut_png_is_refused(picture):
    with pytest.raises(BadImage):
        examine(encode(picture, "PNG")[:-5000], "png")
