import io
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.batch import BatchSharding
from mae.data.index import shard_index
from mae.data.opening import open_images, training_manifest
from mae.data.order import BLOCK
from mae.data.training_data import build_order, check_cache, open_training_data, shards_at_once
from mae.storage.cache import ShardCache, build_cache
from tests.servers import body, web_server

SIZE = (16, 16)


@pytest.fixture
def shards(tmp_path, make_shards):
    """Twelve shards of four samples."""
    return make_shards(tmp_path / "shards", 48, shard_size=4)


@pytest.fixture
def configure(tmp_path):
    """`configure(batch_size=8, **data)`: settings with caches of their own."""

    def build(batch_size=8, **data):
        data = {"cache_dir": tmp_path / "cache", "workers": 0} | data
        return Config.model_validate({"data": data, "train": {"batch_size": batch_size}})

    return build


def pixels(batch):
    assert isinstance(batch.images, torch.Tensor)
    return batch.images


def refused(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order", ["global", "window", "lanes"])
def test_from_settings_to_batches(shards, configure, order, workers):
    config = configure(train=shards, order=order, window=2, lanes=4, workers=workers)
    config, data = open_training_data(config)
    assert len(data.manifest) == len(data.order) == 48
    seen = [
        list(data.batches(config, BatchSharding(8, 2, rank, 2), SIZE, 0, 6)) for rank in range(2)
    ]
    assert {len(batches) for batches in seen} == {12}
    assert {pixels(batch).shape for rank in seen for batch in rank} == {(2, 3, *SIZE)}
    samples = torch.cat([batch.samples for rank in seen for batch in rank])
    assert samples.sort().values.tolist() == list(range(48))  # an epoch


def test_the_seed_of_the_run_is_that_of_the_order(shards, configure):
    orders = []
    for seed in (1, 2):
        config = configure(train=shards)
        config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        orders.append(open_training_data(config)[1].order(np.arange(48)).sample.tolist())
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_a_mixture_of_two_data_sets(tmp_path, make_shards, configure):
    parts = [
        {"shards": make_shards(tmp_path / "a", 6, shard_size=2), "weight": 3},
        {"shards": [make_shards(tmp_path / "b", 5, shard_size=5)], "weight": 1},
    ]
    config = configure(mixture=parts, order="window", window=1)
    _, data = open_training_data(config)
    assert len(data.manifest) == 11 and data.manifest.datasets == (3, 1)
    samples = data.order(np.arange(BLOCK)).sample
    assert np.bincount(samples // 6).tolist() == [750, 250]
    (batch,) = data.batches(config, BatchSharding(8, 1, 0, 1), SIZE, 3, 4)
    assert batch.samples.tolist() == samples[24:32].tolist()
    assert pixels(batch).float().std() > 5


def test_a_mixture_of_one_is_that_data_set(shards, configure):
    alone = open_training_data(configure(train=shards))[1]
    mixture = open_training_data(configure(mixture=[{"shards": shards, "weight": 7}]))[1]
    assert mixture.manifest.fingerprint == alone.manifest.fingerprint
    assert (
        mixture.order(np.arange(99)).sample.tolist() == alone.order(np.arange(99)).sample.tolist()
    )


def test_a_mistake_in_a_mixture_names_its_part(shards, configure):
    parts = [{"shards": shards}, {"shards": "nowhere/*.tar"}]
    assert "nowhere" in refused(training_manifest, configure(mixture=parts).data)
    assert refused(training_manifest, configure(mixture=[{"shards": []}, *parts]).data).startswith(
        "data.mixture.0: "
    )


def test_more_lanes_than_images_are_refused(shards, configure):
    data = configure(train=shards, order="lanes", lanes=64).data
    manifest = training_manifest(data)
    message = refused(build_order, data, manifest, 0, 64)
    assert message == "data.lanes: 64 for 48 images: use data.order=global"
    build_order(data.model_copy(update={"lanes": 48}), manifest, 0, 48)


def test_the_smallest_data_set_of_a_mixture_needs_an_image_for_each_lane(
    tmp_path, shards, make_shards, configure
):
    parts = [{"shards": shards}, {"shards": make_shards(tmp_path / "few", 3)}]
    data = configure(mixture=parts, order="lanes", lanes=4).data
    message = refused(build_order, data, training_manifest(data), 0, 8)
    assert message == "data.lanes: 4 for 3 images: use data.order=global"


def test_own_statistics_are_filled_in(shards, configure):
    config, data = open_training_data(configure(train=shards, own_statistics=True))
    images = torch.stack([data.images(config)[sample] for sample in range(48)]) / 255
    assert config.data.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert config.data.std == pytest.approx(images.std((0, 2, 3)).tolist(), abs=1e-4)


def test_statistics_are_left_alone_unless_asked_for(shards, configure):
    config = configure(train=shards)
    assert open_training_data(config)[0] == config


def test_other_images_are_read_with_the_settings_of_the_run(tmp_path, make_shards, configure):
    gray = make_shards(tmp_path / "gray", 3, channels=1, extension="png")
    images = open_images([gray], "data.val", configure(bits=16))
    assert images[0].shape == (3, 24, 32) and images[0].dtype == torch.uint16
    assert refused(open_images, [], "data.val", configure()).startswith("data.val: ")


def test_the_cache_is_as_the_settings_say(configure, tmp_path):
    cache = build_cache(configure(cache_gb=2.5, allow_pipe=True, cache_dir="~/x").data)
    assert cache == ShardCache(Path.home() / "x", 2_500_000_000, True)


# Remote shards


@pytest.fixture
def urls(shards, fast_retries):
    """The same twelve shards on a server that counts."""
    with web_server() as server:
        for path in sorted(Path(shards).parent.glob("*.tar")):
            server.serve(f"/{path.name}", body(path.read_bytes(), etag="1"))
        yield f"{server.url}/shard-{{000000..000011}}.tar"


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_the_same_batches(shards, urls, configure, tmp_path, workers):
    streams = []
    for train in (shards, urls):
        config = configure(
            train=train, order="lanes", window=1, lanes=4, workers=workers, index_dir=tmp_path / "i"
        )
        config, data = open_training_data(config)
        streams.append(list(data.batches(config, BatchSharding(8, 2, 1, 1), SIZE, 2, 9)))
    for one, other in zip(*streams, strict=True):
        assert torch.equal(pixels(one), pixels(other)) and torch.equal(one.samples, other.samples)


def test_a_cache_too_small_for_the_order_is_refused_before_training(urls, configure, tmp_path):
    config = configure(train=urls, index_dir=tmp_path / "i", order="global", cache_gb=100e-6)
    assert refused(open_training_data, config).startswith(
        "data.cache_gb: 0.0001, but data.order=global needs "
    )
    assert refused(open_training_data, config).endswith(
        "raise it, or data.order=window reads a few shards at a time"
    )


@pytest.mark.parametrize(
    ("order", "window", "lanes", "share", "needed"),
    [
        ("global", 16, 1, 1.0, 12),
        ("window", 2, 1, 1.0, 4),
        ("window", 5, 1, 1.0, 10),
        ("window", 16, 1, 1.0, 12),
        ("lanes", 1, 4, 1.0, 8),
        ("lanes", 1, 4, 0.5, 4),
        ("lanes", 1, 4, 0.1, 2),
        ("lanes", 16, 4, 0.5, 12),
    ],
)
def test_the_cache_must_hold_two_windows(shards, configure, order, window, lanes, share, needed):
    """The one that is read and the one that is fetched, of the lanes of this machine."""
    data = configure(train=shards, order=order, window=window, lanes=lanes).data
    manifest = training_manifest(data)
    manifest = replace(manifest, shards=tuple(f"s3://bucket{path}" for path in manifest.shards))
    size = float(np.mean(manifest.shard_bytes)) / 1e9
    enough = data.model_copy(update={"cache_gb": size * needed * 1.001})
    check_cache(enough, manifest, share)
    too_small = data.model_copy(update={"cache_gb": size * needed * 0.999})
    message = refused(check_cache, too_small, manifest, share)
    assert message.startswith("data.cache_gb: ") and f"data.order={order}" in message


def test_local_shards_need_no_cache(shards, configure):
    config = configure(train=shards, cache_gb=1e-9)
    open_training_data(config)
    assert not config.data.cache_dir.exists()


def test_shards_at_once_of_a_mixture(tmp_path, make_shards, configure):
    parts = [
        {"shards": make_shards(tmp_path / name, 24, shard_size=1), "weight": 1} for name in "ab"
    ]
    data = configure(mixture=parts, order="window", window=3).data
    assert shards_at_once(data, training_manifest(data), 1.0) == 6


# Large data sets


@pytest.fixture
def million(tmp_path, make_tar):
    """1000 shards of 1000 samples each: links to one, as are their indexes."""
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, "PNG")
    image = file.getvalue()
    folder = tmp_path / "million"
    (folder / ".mae-index").mkdir(parents=True)
    first = make_tar(tmp_path / "one.tar", [(f"{n:09d}.png", image) for n in range(1000)])
    shard_index(str(first))
    index = tmp_path / ".mae-index" / "one.tar.safetensors"
    for number in range(1000):
        os.link(first, folder / f"{number:04d}.tar")
        os.link(index, folder / ".mae-index" / f"{number:04d}.tar.safetensors")
    return f"{folder}/*.tar"


@pytest.mark.parametrize("order", ["global", "window", "lanes"])
def test_a_million_samples_go_on_at_90_percent_of_an_epoch_at_once(million, configure, order):
    """No walking there, no reading of what was seen."""
    config = configure(train=million, order=order, batch_size=64)
    step = 900_000 // 64
    start = time.process_time()
    config, data = open_training_data(config)
    batch = next(data.batches(config, BatchSharding(64, 1, 0, 1), SIZE, step, step + 1))
    took = time.process_time() - start
    expected = data.order(np.arange(step * 64, step * 64 + 64))
    assert batch.samples.tolist() == expected.sample.tolist()
    assert len(data.manifest) == 1_000_000
    assert took < 2
