import io

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.batch import Batch, BatchSharding, Crops, EncodedCrops
from mae.data.device_crop import resize_crops
from mae.data.device_decoding import CropDecoder
from mae.data.training_data import open_training_data
from mae.decoding.on_device import JpegDecoder

SIZE = (16, 16)
CPU = torch.device("cpu")
BATCH = 12
STEPS = 4


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def without_tables(data):
    """A JPEG whose header and end are as they should be, but without its quantisation tables."""
    while (start := data.find(b"\xff\xdb")) >= 0:
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        data = data[:start] + data[start + 2 + length :]
    return data


@pytest.fixture
def shard(tmp_path, make_image, make_tar):
    """Shard of images of several kinds and sizes; two are bad, one of them beyond its header."""

    def member(number):
        image = Image.fromarray(make_image(number, (20 + number, 50 - number)))
        data = encoded(image, "JPEG")
        kinds = {
            3: lambda: ("png", encoded(image, "PNG")),
            5: lambda: ("jpg", encoded(image.convert("CMYK"), "JPEG")),
            7: lambda: ("jpg", encoded(image.convert("L"), "JPEG")),
            9: lambda: ("jpg", data[: len(data) // 2]),
            11: lambda: ("jpg", without_tables(data)),
        }
        extension, data = kinds.get(number, lambda: ("jpg", data))()
        return f"{number:02}.{extension}", data

    return make_tar(tmp_path / "a.tar", [member(number) for number in range(20)])


@pytest.fixture
def make(shard, tmp_path):
    """`make(key, first, last, skipped, **data)` → batches with data.KEY_on_device set."""

    def batches(key, first=0, last=STEPS, skipped=(), processes=1, rank=0, **data):
        settings = {"train": str(shard), "workers": 0, f"{key}_on_device": True, **data}
        config = Config.model_validate(
            {"output": str(tmp_path / "run"), "data": settings, "train": {"batch_size": BATCH}}
        )
        config, training = open_training_data(config)
        sharding = BatchSharding(BATCH, processes, rank, 1)
        return list(training.batches(config, sharding, SIZE, first, last, skipped, CPU))

    return batches


def images_of(batch: Batch) -> torch.Tensor:
    assert isinstance(batch.images, Crops)
    return resize_crops(batch.images, SIZE, CPU)


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(images_of(one), images_of(other))
        and torch.equal(one.seeds, other.seeds)
        and torch.equal(one.samples, other.samples)
        and torch.equal(one.labels, other.labels)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_our_decoder(make, workers):
    """And the bad are named and replaced, those too that only decoding finds."""
    expected, found = make("crop"), make("decode", workers=workers)
    assert all(map(same, found, expected)) and len(found) == STEPS
    bad = {one.sample for batch in found for one in batch.bad}
    assert bad == {9, 11} == {one.sample for batch in expected for one in batch.bad}


@pytest.mark.parametrize(
    "position",
    [{"first": 2}, {"skipped": {2, 3}}, {"processes": 2, "rank": 1}, {"repeats": 3}],
    ids=str,
)
def test_from_any_position(make, position):
    expected, found = make("crop", **position), make("decode", **position)
    assert all(map(same, found, expected)) and len(found) == len(expected) > 0


def test_views_of_an_image_share_its_file(make, monkeypatch):
    decoded = []
    call = CropDecoder.__call__

    def spy(self, batch: EncodedCrops):
        decoded.append(batch)
        return call(self, batch)

    monkeypatch.setattr(CropDecoder, "__call__", spy)
    make("decode", repeats=4, last=1)
    (batch,) = decoded
    assert len(batch.table) == BATCH // 4 and batch.image.tolist() == sorted(batch.image.tolist())
    assert len(batch.image) == len(batch.views) == BATCH


class Inverting(JpegDecoder):
    """A device with pixels of its own, that refuses most JPEGs of an even number of bytes."""

    def __call__(self, files):
        images = super().__call__(files)
        return [
            None if image is None or (len(file) % 2 == 0 and len(file) > 700) else 255 - image
            for file, image in zip(files, images, strict=True)
        ]


def test_what_only_the_device_refuses_is_decoded_by_the_cpu(make, shard, monkeypatch):
    """Only that image: no other's pixels depend on its batch or on the number of processes."""
    monkeypatch.setattr("mae.data.device_decoding.JpegDecoder", Inverting)
    alone = make("decode")
    halves = [make("decode", processes=2, rank=rank) for rank in range(2)]
    views = torch.cat([images_of(batch) for batch in alone])
    together = [torch.cat([images_of(a), images_of(b)]) for a, b in zip(*halves, strict=True)]
    assert torch.equal(views, torch.cat(together))
    by_cpu = torch.cat([images_of(batch) for batch in make("crop")])
    same_pixels = (views == by_cpu).flatten(1).all(1)
    assert 0.1 < same_pixels.float().mean() < 0.9
    assert {one.sample for batch in alone for one in batch.bad} == {9, 11}


def test_a_device_that_fails_is_reported(make, monkeypatch):
    def fail(self, files):
        raise UserError("nvImageCodec on cuda:0: out of memory")

    monkeypatch.setattr("mae.data.device_decoding.JpegDecoder.__call__", fail)
    with pytest.raises(UserError, match="out of memory"):
        make("decode")


def test_an_image_of_another_size_than_its_header_says_is_refused(make, monkeypatch):
    call = JpegDecoder.__call__
    expected = make("crop")

    def smaller(self, files):
        return [image if image is None else image[1:] for image in call(self, files)]

    monkeypatch.setattr(JpegDecoder, "__call__", smaller)
    assert all(map(same, make("decode"), expected))  # by the CPU


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_colour(shard, channels, tmp_path):
    found = []
    for key in ("crop", "decode"):
        data = {"train": str(shard), "workers": 0, f"{key}_on_device": True}
        data |= {"mean": [0.5] * channels, "std": [0.5] * channels, "in_chans": channels}
        config = Config.model_validate({"output": str(tmp_path), "data": data})
        config, training = open_training_data(config)
        (batch,) = training.batches(config, BatchSharding(16, 1, 0, 1), SIZE, 0, 1, (), CPU)
        found.append(images_of(batch))
    assert torch.equal(*found) and found[0].shape == (16, channels, *SIZE)
    assert np.ptp(found[0].numpy()) > 100
