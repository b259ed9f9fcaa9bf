"""Needs of a data set and GPUs, computed by hand and by the program's own parts."""

from typing import Any

import numpy as np
import pytest

from benchmarks.data_needs import (
    Cluster,
    DataSet,
    cache_bytes,
    epoch_hours,
    hours,
    lanes_for,
    manifest_bytes,
    read_at_start,
    reads_of_files,
    reads_through_cache,
    requests_at_start,
)
from benchmarks.order_at_scale import Uniform, check_epoch
from benchmarks.scaling_values import count_text, duration_text, size_text
from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.data.index import shard_index
from mae.data.manifest_writer import new_manifest
from mae.data.training_data import build_order, check_cache

DATA = DataSet(samples=1_000_000, image_bytes=100_000, of_shard=1_000)
NODES = Cluster(processes=32, images_per_s=500)


def test_a_data_set_and_a_cluster():
    assert (DATA.shards, DATA.bytes, DATA.shard_bytes) == (1_000, 1e11, 1e8)
    assert DATA._replace(samples=1_000_001).shards == 1_001
    assert (NODES.nodes, NODES.of_node) == (4, 8)
    assert (Cluster(2, 1).nodes, Cluster(2, 1).of_node) == (1, 2)


def test_files_deliver_each_image_once():
    # 32 GPUs × 500 images/s × 100 kB.
    assert reads_of_files(DATA, NODES) == (4e8, 1.6e9, 4_000, 16_000)


def test_a_server_delivers_shards_to_one_node_or_to_all():
    lanes = reads_through_cache(DATA, NODES, "lanes")
    assert lanes.all_bytes == pytest.approx(1.6e9 * 1.003)  # three shards lie on two nodes
    assert lanes.all_requests == pytest.approx(16.048) and lanes.node_requests == lanes[3] / 4
    window = reads_through_cache(DATA, NODES, "window")
    assert window == (1.6e9, 6.4e9, 16, 64)


@pytest.mark.parametrize("order", ["window", "lanes"])
def test_the_shards_that_nodes_read_are_those_of_the_order(order):
    uniform: Any = Uniform(6_400, 128)
    config = DataConfig(train=("x.tar",), order=order, window=4, lanes=32)
    known = build_order(config, uniform, 0, 64)
    use = check_epoch(known, uniform.dataset_counts()[0], 32, 0)
    counted = use.of(4).touched().sum() / 128
    data = DataSet(6_400, 1.0, 50)
    modelled = reads_through_cache(data, Cluster(32, 1.0), order).all_bytes / 32
    assert counted == pytest.approx(modelled, rel=0.03)


@pytest.mark.parametrize(
    ("order", "window", "lanes", "shards"),
    [("global", 16, 64, 1_000), ("window", 16, 64, 32), ("lanes", 4, 64, 128)],
)
def test_the_cache_is_what_the_program_asks_for(order, window, lanes, shards):
    needed = cache_bytes(DATA, NODES, order, window, lanes)
    assert needed == shards * 1e8
    manifest: Any = type("Known", (), {})()
    manifest.shards = [f"https://host/{number}.tar" for number in range(DATA.shards)]
    manifest.shard_bytes = np.full(DATA.shards, int(DATA.shard_bytes))
    settings: Any = {"order": order, "window": window, "lanes": lanes}
    config = DataConfig(train=("x.tar",), cache_gb=needed / 1e9, **settings)
    check_cache(config, manifest, 1 / NODES.nodes)
    with pytest.raises(UserError, match="cache_gb"):
        less = config.model_copy(update={"cache_gb": 0.99 * needed / 1e9})
        check_cache(less, manifest, 1 / NODES.nodes)


def test_the_manifest_is_as_large_as_modelled(tmp_path, make_shards):
    make_shards(tmp_path, 600, shard_size=200, size=(4, 4), labels=False)
    with new_manifest(tmp_path / "all.safetensors") as writer:
        for number in range(3):
            path = str(tmp_path / f"shard-00000{number}.tar")
            writer.add(path, shard_index(path))
    header = 2_000
    size = (tmp_path / "all.safetensors").stat().st_size
    key = len("sample-00000\0")  # modelled are the nine digits of mae pack
    assert 0 <= size - manifest_bytes(DataSet(600, 1, 200)) - 600 * (key - 10) < header


def test_a_start_reads_all_rows_or_the_shards():
    assert read_at_start(DATA) == manifest_bytes(DATA)
    many = DataSet(10**9, 1, 10_000)
    assert read_at_start(many) < 1e7 < manifest_bytes(many)


def test_lanes_requests_and_times():
    assert [lanes_for(n) for n in (1, 64, 1024)] == [64, 64, 1024]
    found = [requests_at_start(1_000, 4, 32, how) for how in ("manifest", "node", "process")]
    assert found == [4, 4_000, 32_000]
    assert hours(7_200, 1) == 2 and epoch_hours(DATA, NODES) == pytest.approx(62.5 / 3600)


def test_numbers_for_people():
    sizes = [999, 12_345, 999_960, 1.25e9, 9.999e11, 123e15]
    assert [size_text(size) for size in sizes] == (
        ["0.999 kB", "12.3 kB", "1 MB", "1.25 GB", "1 TB", "123 PB"]
    )
    assert [duration_text(h) for h in (0.001, 0.5, 30, 240)] == (
        ["3.6 s", "30 min", "30 h", "10 days"]
    )
    assert [count_text(n) for n in (42_400, 5_427_200)] == ["42 k", "5.4 M"]
