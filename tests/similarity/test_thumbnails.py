"""Thumbnails and digests of pixels."""

import io

import pytest
import torch
from PIL import Image

from mae.config.sections import Config, DataConfig
from mae.data.file_manifest import open_files_or_shards
from mae.decoding.decode import decode_native
from mae.similarity.thumbnails import (
    DIGEST,
    Thumbnail,
    Thumbnails,
    encoded,
    pack_thumbnails,
    pixel_digest,
    thumbnail,
    unpack_thumbnails,
)


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 200, 100), (32, 64)), ((3, 8, 9), (9, 8)), ((1, 2, 1000), (64, 1))]
)
def test_sides_are_at_most_64_pixels(shape, size):
    assert thumbnail(torch.zeros(shape, dtype=torch.uint8)).size == size


def test_deep_images_are_stretched_and_many_channels_are_colours():
    ramp = torch.arange(256).view(16, 16)
    deep = (ramp + 1000).to(torch.uint16)[None]
    values = torch.tensor(list(thumbnail(deep).convert("L").tobytes()))
    assert values.min() == 0 and values.max() == 255
    many = torch.stack([torch.full((4, 4), 40 * c, dtype=torch.uint8) for c in range(6)])
    assert thumbnail(many).getpixel((0, 0)) == (0, 40, 80)
    two = many[4:]
    assert thumbnail(two).getpixel((0, 0)) == (160, 160, 160)


def test_the_smaller_file_is_kept_and_gray_stays_gray():
    flat = Image.open(io.BytesIO(encoded(Image.new("RGB", (64, 64), (9, 9, 9)))))
    assert (flat.format, flat.mode) == ("PNG", "L")
    noise = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(0))
    noisy = Image.open(io.BytesIO(encoded(Image.fromarray(noise.byte().numpy()))))
    assert (noisy.format, noisy.mode, noisy.size) == ("JPEG", "RGB", (64, 64))


def test_digests_are_of_size_depth_and_values():
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    others = [image + 1, image.view(2, 4, 3), image.to(torch.uint16), image.view(3, 2, 4)]
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert pixel_digest(strided) == pixel_digest(image)
    assert len({pixel_digest(one) for one in [image, *others]}) == 5


def test_digests_are_of_the_stored_pixels_whatever_the_model_reads(tmp_path, make_image):
    """Gray and colours, or other opacity, that a model reads as the same pixels, differ."""
    colours = Image.fromarray(make_image(1, 20))
    gray = colours.convert("L")
    faint = colours.copy()
    faint.putalpha(9)
    images = [colours, faint, gray, gray.convert("RGB")]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    colours.save(tmp_path / "4.png", compress_level=1)
    colours.save(tmp_path / "5.jpg")
    config = Config(data=DataConfig(in_chans=3))
    data = Thumbnails(open_files_or_shards([str(tmp_path)], "images", config), range(6))
    found = data[range(6)]
    assert isinstance(found, list)
    for one, path in zip(found, sorted(tmp_path.iterdir()), strict=True):
        assert one.digest == pixel_digest(decode_native(path.read_bytes(), path.suffix[1:]))
    assert found[4].digest == found[0].digest and len({one.digest for one in found}) == 5


def test_thumbnails_of_a_part_come_back():
    batches = [
        [Thumbnail(b"first", b"a" * DIGEST), Thumbnail(b"", b"b" * DIGEST)],
        [Thumbnail(b"third", b"c" * DIGEST)],
    ]
    assert unpack_thumbnails(pack_thumbnails(batches)) == [*batches[0], *batches[1]]
