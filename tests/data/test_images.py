import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import SampleError, StorageError, UserError
from mae.data import images as module
from mae.data.images import IN_THE_SAME_SHARD, Images, replacement, usable, usable_image
from mae.data.indexing import build_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_shards):
    """24 samples in three shards."""
    return build_manifest([make_shards(tmp_path_factory.mktemp("shards"), 24)])


@pytest.fixture
def damaged(tmp_path, make_shards):
    """`damaged(samples)`: 24 samples in three shards, with these no longer as indexed."""

    def build(samples):
        manifest = build_manifest([make_shards(tmp_path, 24)])
        for sample in samples:
            with Path(manifest.shards[manifest.shard_of(sample)]).open("r+b") as file:
                file.seek(int(manifest.offset[sample]))
                file.write(b"?")
        return Images(manifest, 3)

    return build


def encoded(pixels, extension):
    file = io.BytesIO()
    if extension == "npy":
        np.save(file, pixels)
    else:
        Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def refused(call, *arguments):
    with pytest.raises(SampleError) as error:
        call(*arguments)
    (line,) = str(error.value).splitlines()
    return line


def test_images_are_as_stored(manifest, make_image):
    image = Images(manifest, 3)[11]
    assert image.shape == (3, 24, 32)
    assert (image.permute(1, 2, 0).numpy().astype(int) - make_image(11)).std() < 5


def test_images_of_16_bits(tmp_path, make_tar):
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3277
    path = make_tar(tmp_path / "a.tar", [("a.png", encoded(pixels, "png"))])
    manifest = build_manifest([str(path)])
    image = Images(manifest, 1, bits=16)[0]
    assert image.dtype == torch.uint16 and np.array_equal(image[0].numpy(), pixels)
    message = refused(Images(manifest, 1).__getitem__, 0)
    assert message == f"{path}: key a: 16 bits a channel, but data.bits is 8"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_of_seven_channels(tmp_path, make_tar, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (6, 5, 7), dtype)
    path = make_tar(tmp_path / "a.tar", [("a.npy", encoded(pixels, "npy"))])
    image = Images(build_manifest([str(path)]), 7, bits=8 * pixels.itemsize)[0]
    assert image.shape == (7, 6, 5)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_what_does_not_decode_is_named(tmp_path, make_tar):
    path = make_tar(tmp_path / "a.tar", [("a.jpg", b"no image"), ("b.png", b"")])
    images = Images(build_manifest([str(path)]), 3)
    assert refused(images.__getitem__, 0).startswith(f"{path}: key a: does not decode")
    assert refused(images.__getitem__, 1).startswith(f"{path}: key b: ")


def test_pickles_in_arrays_are_not_unpickled(tmp_path, make_tar):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    file = io.BytesIO()
    np.save(file, np.array([Trap()], object), allow_pickle=True)
    path = make_tar(tmp_path / "a.tar", [("a.npy", file.getvalue())])
    images = Images(build_manifest([str(path)]), 3)
    assert "key a: pickled objects" in refused(images.__getitem__, 0)
    assert not (tmp_path / "executed").exists()


def test_impossible_channels_are_named(manifest):
    message = refused(Images(manifest, 4).__getitem__, 9)
    assert message.endswith("key sample-00009: has 3 channels, but data.in_chans is 4")


# What takes the place of a bad image


def test_a_good_image_is_not_replaced(damaged):
    images = damaged([3])
    usable = usable_image(images.__getitem__, images.manifest, 5, seed=0, epoch=0)
    assert (usable.sample, usable.bad) == (5, [])
    assert torch.equal(usable.image, images[5])


def test_a_bad_image_is_replaced_by_one_of_its_shard(damaged):
    images = damaged([3])
    for epoch in range(20):
        usable = usable_image(images.__getitem__, images.manifest, 3, seed=0, epoch=epoch)
        assert usable.sample in {0, 1, 2, 4, 5, 6, 7}
        assert torch.equal(usable.image, images[usable.sample])
        ((sample, reason),) = usable.bad
        assert sample == 3
        assert reason == refused(images.__getitem__, 3)


def test_replacements_differ_between_epochs_and_seeds(damaged):
    images = damaged([3])
    found = {
        usable_image(images.__getitem__, images.manifest, 3, seed, epoch).sample
        for seed in (0, 1)
        for epoch in range(20)
    }
    assert found == {0, 1, 2, 4, 5, 6, 7}


def test_a_replacement_is_never_a_bad_one_and_each_is_tried_once(damaged, monkeypatch):
    bad = {0, 1, 2, 3, 5, 6, 7}
    images = damaged(bad)
    tried = []
    read = images.reader.read
    monkeypatch.setattr(images.reader, "read", lambda sample: tried.append(sample) or read(sample))
    for epoch in range(10):
        tried.clear()
        usable = usable_image(images.__getitem__, images.manifest, 3, seed=0, epoch=epoch)
        assert usable.sample not in bad
        assert tried == [*(sample for sample, _ in usable.bad), usable.sample]
        assert len(set(tried)) == len(tried)
        assert all(f"key sample-{sample:05d}: " in reason for sample, reason in usable.bad)


def test_where_a_whole_shard_is_bad_others_take_its_place(damaged):
    images = damaged(range(8, 16))
    for epoch in range(10):
        usable = usable_image(images.__getitem__, images.manifest, 12, seed=0, epoch=epoch)
        assert usable.sample not in range(8, 16)
        assert {sample for sample, _ in usable.bad} <= set(range(8, 16))


def test_a_bad_image_alone_in_its_shard(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 3, shard_size=1)])
    os.truncate(manifest.shards[1], 600)
    usable = usable_image(Images(manifest, 3).__getitem__, manifest, 1, seed=0, epoch=0)
    assert usable.sample in (0, 2)
    assert [sample for sample, _ in usable.bad] == [1]


def test_where_all_are_bad_the_first_is_named(damaged):
    images = damaged(range(24))
    message = refused(usable_image, images.__getitem__, images.manifest, 12, 0, 0)
    assert "key sample-00012: not the bytes that were indexed (checksum) (and its repl" in message


def test_a_shard_that_cannot_be_read_is_not_replaced(damaged):
    images = damaged([])
    Path(images.manifest.shards[1]).unlink()
    with pytest.raises(StorageError, match=r"key sample-00012: cannot be read"):
        usable_image(images.__getitem__, images.manifest, 12, seed=0, epoch=0)


def test_replacements_are_drawn_as_they_always_were(manifest):
    # Written down once: a change makes a run continue with other images.
    drawn = [replacement(manifest, 12, 7, 3, attempt) for attempt in range(12)]
    assert drawn == [11, 9, 12, 12, 8, 12, 12, 14, 12, 8, 20, 9]


def test_replacements_come_from_the_shard_and_then_from_anywhere(manifest):
    near = [
        replacement(manifest, 12, seed, epoch, attempt)
        for seed in range(10)
        for epoch in range(10)
        for attempt in range(IN_THE_SAME_SHARD)
    ]
    counts = np.bincount(near, minlength=24)
    assert counts[8:16].min() > 60 and counts.sum() == counts[8:16].sum()  # 100 on average
    far = [
        replacement(manifest, 12, seed, 0, attempt)
        for seed in range(50)
        for attempt in range(IN_THE_SAME_SHARD, module.ATTEMPTS)
    ]
    assert np.bincount(far, minlength=24).min() > 25  # 50 on average


def test_usable_returns_results_by_sample_and_the_bad_ones(damaged):
    images = damaged([1])
    found = usable([2, 1, 0], lambda sample: images[sample].shape[0])
    assert not isinstance(found, UserError)
    assert list(found.made.items()) == [(2, 3), (0, 3)]
    assert [one.sample for one in found.bad] == [1]


def test_usable_returns_the_error_of_an_unreadable_shard():
    def read(sample):
        raise StorageError("shard: cannot be read")

    found = usable([0, 1], read)
    assert isinstance(found, StorageError)
