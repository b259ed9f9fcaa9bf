import random
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.order import Order
from mae.data.sample_views import SampleViews, TransformedViews
from mae.data.views import PixelViews
from mae.data.worker_loader import load_in_workers


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_shards):
    return build_manifest([make_shards(tmp_path_factory.mktemp("shards"), 20)])


def views(manifest, kind=SampleViews, **config):
    order = Order(3, manifest.dataset_counts(), repeats=config.get("repeats", 1))
    return kind(manifest, order, DataConfig(**config), (8, 8), 3)


def test_whole_images_and_files_are_those_of_the_order(manifest):
    source = views(manifest)
    batch = source.batch(range(5, 15))
    images, place = Images(manifest, 3), source.order(np.arange(5, 15))
    assert batch.samples.tolist() == place.sample.tolist()
    assert batch.labels.tolist() == manifest.label[place.sample].tolist()
    for image, sample in zip(batch.images, place.sample.tolist(), strict=True):
        assert torch.equal(image, images[sample])
    source.decode = False
    files = source.batch(range(5, 15))
    assert files.images == [images.reader.read(sample) for sample in place.sample.tolist()]
    assert torch.equal(files.seeds, batch.seeds)


def test_positions_at_a_distance(manifest):
    batch = views(manifest).batch(range(1, 20, 3))
    assert batch.samples.tolist() == views(manifest).batch(range(20)).samples[1::3].tolist()


def made(source, index):
    batch = source[index]
    assert not isinstance(batch, UserError)
    return batch


def draws(image):
    """Random numbers of all three generators."""
    return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def test_random_numbers_of_a_transform_depend_on_seed_view_and_sample_alone(manifest):
    source = TransformedViews(views(manifest), draws, torch.stack)
    before = random.getstate(), torch.random.get_rng_state()
    whole = made(source, range(20)).images
    assert before[0] == random.getstate() and torch.equal(before[1], torch.random.get_rng_state())
    assert whole.shape == (20, 3) and len(whole.unique()) == 60
    parts = load_in_workers(source, [range(n, n + 4) for n in range(0, 20, 4)], workers=2)
    assert torch.equal(torch.cat([part.images for part in parts]), whole)
    again = made(source, range(20, 40))  # the next epoch
    assert not torch.equal(again.images[again.samples.argsort()], whole)


def test_a_transform_of_crops_that_changes_them_in_place(manifest):
    crops = cast(Tensor, views(manifest, PixelViews, repeats=2).batch(range(8)).images)
    inverted = TransformedViews(
        views(manifest, PixelViews, repeats=2), lambda crop: crop.mul_(-1), torch.stack
    )
    assert torch.equal(made(inverted, range(8)).images, -crops)
    doubled = TransformedViews(
        views(manifest, repeats=2), lambda image: image.add_(1), lambda images: images
    )
    first, second = made(doubled, range(2)).images
    assert torch.equal(first, second)


def test_an_error_of_a_transform_names_the_sample(manifest):
    source = TransformedViews(views(manifest), lambda image: 1 // 0, list)
    name = manifest.name(source.views.order(np.array([0])).sample.item())
    with pytest.raises(ZeroDivisionError) as error:
        source[range(1)]
    assert error.value.__notes__ == [f"in the transform of {name}"]


def test_an_error_of_the_data_comes_back_as_a_value(manifest, monkeypatch):
    source = TransformedViews(views(manifest), draws, list)

    def broken(index):
        raise UserError("no disk")

    monkeypatch.setattr(source.views, "batch", broken)
    assert isinstance(source[range(1)], UserError)
