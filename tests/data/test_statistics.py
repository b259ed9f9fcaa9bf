import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mae.base.divided_work import divided_work
from mae.base.errors import StorageError, UserError
from mae.base.portion import ALONE
from mae.data import statistics as module
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.statistics import SHARDS, channel_statistics, channels_and_bits, some_samples


@pytest.fixture
def write(tmp_path, make_tar):
    """`write(arrays)` → their manifest: PNGs where these can hold them, else `.npy`."""

    def build(arrays, name="a.tar"):
        members = []
        for number, pixels in enumerate(arrays):
            file = io.BytesIO()
            if pixels.ndim == 2 or (pixels.shape[2] == 3 and pixels.dtype == np.uint8):
                Image.fromarray(pixels).save(file, "PNG")
                members.append((f"{number:04d}.png", file.getvalue()))
            else:
                np.save(file, pixels)
                members.append((f"{number:04d}.npy", file.getvalue()))
        return build_manifest([str(make_tar(tmp_path / name, members))])

    return build


def noise(count, shape, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    return [(rng.beta(2, 1 + n % 5, shape) * top).astype(dtype) for n in range(count)]


def reference(arrays):
    """Mean and standard deviation over all pixels of images of one size, by NumPy."""
    top = np.iinfo(arrays[0].dtype).max
    pixels = np.stack([array.reshape(-1, array[0, 0].size) for array in arrays]) / top
    return pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))


def samples_of(counts):
    """The choice among shards of these many samples."""

    first = np.cumsum([0, *counts])[:-1]
    shards = [str(number) for number in range(len(counts))]
    manifest = SimpleNamespace(shards=shards, first=first, counts=lambda: np.array(counts))
    return some_samples(manifest)  # pyrefly: ignore  # what it asks of a manifest


def shards_of(samples, counts):
    return np.searchsorted(np.cumsum(counts), samples, side="right")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((20, 30, 3), np.uint8),
        ((20, 30), np.uint8),
        ((20, 30), np.uint16),
        ((20, 30, 7), np.uint8),
        ((20, 30, 4), np.uint16),
    ],
)
def test_statistics_are_numpy_s(write, shape, dtype):
    arrays = noise(25, shape, dtype)
    channels = shape[2] if len(shape) == 3 else 1
    images = Images(write(arrays), channels, bits=8 * arrays[0].itemsize)
    found = channel_statistics(images)
    mean, std = reference(arrays)
    assert found.images == 25
    assert np.allclose(found.mean, mean, rtol=0, atol=1e-6)
    assert np.allclose(found.std, std, rtol=0, atol=1e-6)


def test_dim_images_too(write):
    """Small deviations around a large mean: where sums of squares lose their digits."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(60_000, 60_004, (20, 30), np.uint16) for _ in range(20)]
    found = channel_statistics(Images(write(arrays), 1, bits=16))
    assert np.allclose(found.std, reference(arrays)[1], rtol=0.05, atol=0)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("RGB", 3)])
def test_alpha_is_no_channel(tmp_path, make_tar, make_image, mode, channels):
    """Opaque, it would be a channel that is the same in all pixels."""
    file = io.BytesIO()
    Image.fromarray(make_image(0)).convert(mode).save(file, "PNG")
    path = make_tar(tmp_path / "a.tar", [("a.png", file.getvalue())])
    manifest = build_manifest([str(path)])
    assert channels_and_bits(manifest) == (channels, 8)
    assert len(channel_statistics(Images(manifest, *channels_and_bits(manifest))).std) == channels


def test_images_count_alike_whatever_their_size(write):
    small, large = np.zeros((4, 4), np.uint8), np.full((400, 400), 255, np.uint8)
    found = channel_statistics(Images(write([small, large]), 1))
    assert found.mean == (0.5,) and found.std == (0.5,)


def test_measured_once_for_a_data_set(write, monkeypatch):
    manifest = write(noise(9, (8, 8, 3)))
    first = channel_statistics(Images(manifest, 3))
    (file,) = (Path(manifest.shards[0]).parent / ".mae-index").glob("statistics-*.json")
    assert manifest.fingerprint[:16] in file.name
    monkeypatch.setattr(module, "_moments", None)
    assert channel_statistics(Images(manifest, 3)) == first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 100_000,
        '{"images": 9, "mean": [NaN, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}',
        '{"images": 9, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.0, 0.2]}',
        '{"images": 9, "mean": [0.5, 0.5, 0.5], "std": [0.2, 1e999, 0.2]}',
        '{"images": 9, "mean": [0.5, 0.5], "std": [0.2, 0.2]}',
        '{"images": 9, "mean": "abc", "std": [0.2, 0.2, 0.2]}',
        '{"images": [], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}',
    ],
)
def test_forged_statistics_are_measured_again(write, text):
    manifest = write(noise(9, (8, 8, 3)))
    first = channel_statistics(Images(manifest, 3))
    (file,) = (Path(manifest.shards[0]).parent / ".mae-index").glob("statistics-*.json")
    file.write_text(text)
    assert channel_statistics(Images(manifest, 3)) == first


def test_other_samples_channels_or_bits_are_measured_again(write):
    manifest = write(noise(9, (8, 8, 3)))
    kept = [channel_statistics(Images(manifest, channels, bits)) for channels, bits in SETTINGS]
    assert kept[0] != kept[1] and kept[0] == kept[2]
    other = write(noise(9, (8, 8, 3), seed=1), "b.tar")
    assert channel_statistics(Images(other, 3)) not in kept
    index = Path(manifest.shards[0]).parent / ".mae-index"
    assert len(list(index.glob("statistics-*.json"))) == 4


SETTINGS = [(3, 8), (1, 8), (3, 16)]


def test_index_dir_is_used(write, tmp_path):
    manifest = write(noise(9, (8, 8, 3)))
    channel_statistics(Images(manifest, 3), tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").rglob("statistics-*.json"))) == 1
    assert not list((tmp_path / ".mae-index").glob("statistics-*"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 1, "mean": 1, "std": 1}', "\udcff"]
)
def test_a_damaged_file_is_made_again(write, text):
    manifest = write(noise(9, (8, 8, 3)))
    first = channel_statistics(Images(manifest, 3))
    (file,) = (Path(manifest.shards[0]).parent / ".mae-index").glob("statistics-*.json")
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert channel_statistics(Images(manifest, 3)) == first
    assert json.loads(file.read_text())["images"] == 9


def test_a_folder_that_cannot_be_written_only_costs_time(write, tmp_path):
    images = Images(write(noise(9, (8, 8, 3))), 3)
    (tmp_path / "file").touch()
    assert channel_statistics(images, tmp_path / "file") == channel_statistics(images)


def test_bad_images_are_passed_over(write):
    arrays = noise(9, (8, 8, 3))
    manifest = write(arrays)
    with Path(manifest.shards[0]).open("r+b") as file:
        file.seek(int(manifest.offset[4]))
        file.write(b"?")
    found = channel_statistics(Images(manifest, 3))
    mean, std = reference([*arrays[:4], *arrays[5:]])
    assert found.images == 8
    assert np.allclose([found.mean, found.std], [mean, std], rtol=0, atol=1e-6)


def test_nothing_usable_is_reported(tmp_path, make_tar):
    path = make_tar(tmp_path / "a.tar", [("a.jpg", b"no image")])
    with pytest.raises(UserError, match=r"no usable image.*a.tar: key a: does not decode"):
        channel_statistics(Images(build_manifest([str(path)]), 3))


def test_a_shard_that_cannot_be_read_is_no_bad_image(write):
    manifest = write(noise(9, (8, 8, 3)))
    os.unlink(manifest.shards[0])  # noqa: PTH108
    with pytest.raises(StorageError, match="cannot be read"):
        channel_statistics(Images(manifest, 3))


@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
def test_a_constant_channel_is_refused(write, value):
    arrays = noise(5, (16, 16, 3))
    for array in arrays:
        array[..., 1] = value
    manifest = write(arrays)
    with pytest.raises(UserError, match="channel 1 is the same in all pixels"):
        channel_statistics(Images(manifest, 3))
    assert not list((Path(manifest.shards[0]).parent / ".mae-index").glob("statistics-*"))


# Choice of the measured images


@pytest.mark.parametrize(
    ("number", "each"),
    [(1, 5), (1, 1000), (1, 1001), (1, 10**6), (500, 3), (1000, 1000), (31, 10**4), (33, 10**4)],
)
def test_a_thousand_samples_of_a_few_shards(number, each):
    counts = [each] * number
    samples = samples_of(counts)
    assert len(set(samples)) == len(samples) <= module.MEASURED
    assert min(samples) >= 0 and max(samples) < sum(counts)
    shards = shards_of(samples, counts)
    assert len(np.unique(shards)) == min(number, SHARDS)
    if sum(counts) <= module.MEASURED:
        assert samples == list(range(sum(counts)))  # all of them
    if each >= module.MEASURED:
        assert len(samples) == module.MEASURED
        # From the beginning, the middle and the end of a shard: a class may fill a part of it.
        within = (np.array(samples) % each) / each
        assert within.min() < 0.05 and within.max() > 0.95


def test_shards_of_any_size_are_chosen_from():
    counts = [5, 0, 3000, 1]
    samples = samples_of(counts)
    assert np.bincount(shards_of(samples, counts), minlength=4).tolist() == [5, 0, 250, 1]
    assert len(set(samples)) == len(samples)


def test_samples_are_chosen_over_the_whole_list_of_shards():
    shards = shards_of(samples_of([1000] * 1000), [1000] * 1000)
    assert shards.min() == 0 and shards.max() == 999
    assert np.diff(np.unique(shards)).max() <= 33


def test_divided_among_parts_it_is_the_same(write, tmp_path, monkeypatch):
    images = Images(write(noise(9, (8, 8, 3))), 3)
    alone = channel_statistics(images)
    (file,) = (Path(images.manifest.shards[0]).parent / ".mae-index").glob("statistics-*.json")
    file.unlink()
    monkeypatch.setattr(module, "MEASURED_AT_ONCE", 2)
    with divided_work(tmp_path / "out", "", ALONE, print) as work:
        module.measure_divided(images, work)
        assert len(list(work.folder.glob("pixels-*"))) == 5
    monkeypatch.setattr(module, "_moments", None)
    assert channel_statistics(images) == alone


def test_pixels_without_statistics_are_no_error_until_they_are_needed(write, tmp_path):
    images = Images(write([np.zeros((4, 4), np.uint8)] * 2), 1)
    with divided_work(tmp_path / "out", "", ALONE, print) as work:
        module.measure_divided(images, work)
    with pytest.raises(UserError, match="channel 0 is the same in all pixels"):
        channel_statistics(images)


def test_few_images_that_decide_the_deviation_are_named(write):
    dark = [(one // 40).astype(np.uint16) for one in noise(30, (8, 8), np.uint16)]
    white = [np.full((8, 8), 50_000, np.uint16)] * 2
    images = Images(write([*dark, *white], "spoiled.tar"), 1, 16)
    for _ in range(2):  # measured, then as kept beside the shards
        note = channel_statistics(images).note
        assert note.startswith("2 of 32 images are more than 4 times as bright as the median one")
        assert "0030" in note and "without them 0.00" in note
    assert not channel_statistics(Images(write(dark, "clean.tar"), 1, 16)).note
    assert not channel_statistics(Images(write([*dark, *white * 15], "many.tar"), 1, 16)).note
