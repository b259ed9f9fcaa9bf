"""Requirements on images: pairs, lossless files, native crops, quarter turns."""

import io
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import SampleError, UserError
from mae.config.sections import DataConfig
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.needs import check_files, with_pairs
from mae.data.order import Order
from mae.data.transform import center_crop
from mae.data.views import CentredViews, PixelViews, build_training_views
from mae.objectives.declaration import DataNeeds

NATIVE = DataNeeds(native_crops=True, quarter_turns=True, lossless=True)


def encoded(pixels: np.ndarray, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def noise(number: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture
def manifest_of(tmp_path, make_tar):
    """`manifest_of(members)`: manifest of one shard with these (name, bytes)."""

    def make(members: Mapping[str, bytes]):
        return build_manifest([str(make_tar(tmp_path / "shard.tar", list(members.items())))])

    return make


PAIRED = {
    f"{key}.{end}.png": encoded(noise(10 * n + m))
    for n, key in enumerate("xyz")
    for m, end in enumerate("ab")
}


@pytest.mark.parametrize("pairs", ["references", "targets"])
def test_pairs_are_one_sample_of_both_images(manifest_of, pairs):
    shuffled = dict(sorted(PAIRED.items(), key=lambda one: hash(one[0][::-1]) % 7))
    whole = manifest_of(shuffled | {"y.cls": b"4"})
    manifest = with_pairs(whole, pairs, "data.val", is_training=False)
    images = Images(manifest, 3, needs=NATIVE)
    assert len(manifest) == 3 and sorted(manifest.key(n) for n in range(3)) == ["x.a", "y.a", "z.a"]
    for number in range(3):
        place = "xyz".index(manifest.key(number)[0])
        both = np.concatenate([noise(10 * place), noise(10 * place + 1)], axis=2)
        assert torch.equal(images[number], torch.from_numpy(both).permute(2, 0, 1))
    assert manifest.fingerprint != whole.fingerprint


def test_references_are_not_read_in_training(manifest_of):
    manifest = with_pairs(manifest_of(PAIRED), "references", "data.train", is_training=True)
    assert len(manifest) == 3 and manifest.second is None
    assert with_pairs(manifest_of(PAIRED), "none", "data.train", is_training=True).second is None


def test_single_images_are_no_pairs(manifest_of):
    singles = manifest_of({"x.png": encoded(noise(0))})
    assert with_pairs(singles, "references", "data.train", is_training=False) is singles
    with pytest.raises(UserError, match=r"data.train: no pairs: the shards must hold KEY.a.png"):
        with_pairs(singles, "targets", "data.train", is_training=True)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.a.png": 0, "x.b.png": 1, "y.a.png": 2}, r"d: y.b is missing in its shard"),
        ({"x.a.png": 0, "x.b.png": 1, "y.b.png": 2}, r"d: y.a is missing in its shard"),
        ({"x.a.png": 0, "x.b.png": 1, "y.png": 2}, r"d: 1 images are single, the others pairs"),
    ],
)
def test_half_a_pair_is_refused_and_named(members, message, manifest_of):
    files = {name: encoded(noise(number)) for name, number in members.items()}
    with pytest.raises(UserError, match=message):
        with_pairs(manifest_of(files), "references", "d", is_training=True)


def test_a_pair_of_two_sizes_is_a_bad_sample(manifest_of):
    members = {"x.a.png": encoded(noise(0)), "x.b.png": encoded(noise(1, (20, 31)))}
    manifest = with_pairs(manifest_of(members), "targets", "d", is_training=True)
    with pytest.raises(SampleError, match=r"key x.b: 20 x 31 pixels, but 20 x 30 of the first"):
        Images(manifest, 3)[0]


LOSSY = {
    "jpg": encoded(noise(0), "JPEG"),
    "png": encoded(noise(0), "JPEG"),
    "webp": encoded(noise(0), "WEBP", quality=80),
    "tif": encoded(noise(0), "TIFF", compression="jpeg"),
    "avif": encoded(noise(0), "AVIF"),
}


@pytest.mark.parametrize("extension", LOSSY)
def test_lossy_files_are_refused_at_the_start_and_the_first_is_named(extension, manifest_of):
    members = {"a0.png": encoded(noise(1)), f"k.{extension}": LOSSY[extension]}
    images = Images(manifest_of(members), 3, needs=NATIVE)
    with pytest.raises(UserError, match=r"data.train: .*: key k: is compressed with loss"):
        check_files(images, (16, 16), "data.train")
    with pytest.raises(UserError, match=r"key k: is compressed with loss") as raised:
        images[1]
    assert not isinstance(raised.value, SampleError)  # it ends the run, and is not replaced
    assert Images(images.manifest, 3)[1].shape == (3, 20, 30)


@pytest.mark.parametrize(
    ("format", "extension", "options"),
    [
        ("PNG", "png", {}),
        ("WEBP", "webp", {"lossless": True}),
        ("BMP", "bmp", {}),
        ("TIFF", "tif", {}),
    ],
)
def test_lossless_files_pass(format, extension, options, manifest_of):
    pixels = noise(3)
    images = Images(
        manifest_of({f"k.{extension}": encoded(pixels, format, **options)}), 3, needs=NATIVE
    )
    check_files(images, (16, 16), "data.train")
    assert torch.equal(images[0], torch.from_numpy(pixels).permute(2, 0, 1))


def test_images_that_are_all_too_small_are_refused(manifest_of):
    small = encoded(noise(0, (15, 40)))
    images = Images(manifest_of({"k.png": small}), 3, needs=NATIVE)
    with pytest.raises(UserError, match=r"data.train: .*key k: 15 x 40 pixels are smaller than cr"):
        check_files(images, (16, 16), "data.train")


def test_a_small_image_among_others_is_named(manifest_of):
    members = {"k.png": encoded(noise(0, (15, 40))), "l.png": encoded(noise(1))}
    both = Images(manifest_of(members), 3, needs=NATIVE)
    check_files(both, (16, 16), "data.train")
    views = CentredViews(both, (16, 16), None)
    with pytest.raises(SampleError, match=r"key k: 15 x 40 pixels are smaller than crops of 16 x"):
        views.view(0)
    assert torch.equal(views.view(1), center_crop(both[1], (16, 16)))


@pytest.mark.parametrize("bits", [8, 16])
def test_training_crops_are_pixels_of_the_image_in_eight_orientations(bits, tmp_path, make_tar):
    pixels = np.random.default_rng(0).permutation(20 * 30).reshape(20, 30, 1)
    pixels = pixels.astype(np.uint16 if bits == 16 else np.uint8)
    file = io.BytesIO()
    np.save(file, pixels)
    manifest = build_manifest([str(make_tar(tmp_path / "s.tar", [("k.npy", file.getvalue())]))])
    config = DataConfig(bits=bits, in_chans=1, mean=(0.5,), std=(0.5,))
    order = Order(5, manifest.dataset_counts(), batch_size=1)
    views = build_training_views(manifest, order, config, (16, 16), 1, needs=NATIVE)
    assert isinstance(views, PixelViews)
    crops = [views.batch(range(n, n + 1)).images[0, 0].numpy() for n in range(60)]
    again = views.batch(range(30, 60)).images[:, 0].numpy()
    assert np.array_equal(np.stack(crops[30:]), again)  # a function of the place in the order
    found = {place_of(crop, pixels[..., 0]) for crop in crops}
    assert len({one[:2] for one in found}) > 20 and len({one[2] for one in found}) == 8


def place_of(crop: np.ndarray, image: np.ndarray) -> tuple[int, int, int]:
    """Top, left and orientation of a crop in the image."""
    for orientation in range(8):
        turned = np.rot90(crop, -(orientation % 4))
        turned = turned[:, ::-1] if orientation > 3 else turned
        for top in range(image.shape[0] - 15):
            for left in range(image.shape[1] - 15):
                if np.array_equal(image[top : top + 16, left : left + 16], turned):
                    return top, left, orientation
    raise AssertionError("no crop of the image")
