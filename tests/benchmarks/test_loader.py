"""`mae bench loader` beside the pipelines of others."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from benchmarks.pipelines import (
    OTHERS,
    torchvision_batches,
    webdataset_batches,
    webdataset_samples,
)
from mae.bench.loader import bench_loader
from mae.bench.report import table
from mae.data.manifest import build_manifest

SIZE = (32, 32)

# webdataset leaves its shards to be closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    """Garbage is collected while that is allowed."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    return make_shards(tmp_path_factory.mktemp("shards"), 24, size=(60, 80))


@pytest.fixture(scope="module")
def manifest(shards):
    return build_manifest([shards])


@pytest.fixture(scope="module")
def result(shards, tmp_path_factory, make_shards):
    short = make_shards(tmp_path_factory.mktemp("short"), 24, size=(40, 50), labels=False)
    before = torch.get_num_threads()
    quick = {"images": 16, "batch_size": 4, "rounds": 2, "workers": 1}
    result = bench_loader([shards], short=[short], img_size=32, others=OTHERS, **quick)
    assert torch.get_num_threads() == before
    return result


def test_all_pipelines_are_measured(result):
    assert list(result["one_core"]) == [
        "torchvision",
        "webdataset",
        "mae",
        "mae, 4 views of a decoded image",
        "mae, crops left to the device",
        "mae, JPEGs left to the device",
        "mae, short images",
    ]
    assert list(result["processes"]) == ["torchvision", "webdataset", "mae"]
    assert list(result["reading"]) == ["webdataset", "mae"]
    for group in ("one_core", "processes", "reading"):
        for rates in result[group].values():
            for spread in rates.values():
                assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert result["one_core"]["torchvision"]["ratio"] == {"median": 1, "low": 1, "high": 1}


def test_the_table_holds_every_number_once(result):
    text = table(result)
    assert all(len(line) <= 120 for line in text.splitlines())
    for group in ("one_core", "processes", "reading"):
        for name, rates in result[group].items():
            row = f"  {name:<32}{rates['images_per_s']['median']:>12,.0f}"
            assert sum(line.startswith(row) for line in text.splitlines()) == 1
    assert "times torchvision" in text and "µs per image" in text and "decode" in text


def test_without_workers_and_short_images(shards):
    quick = {"images": 4, "batch_size": 2, "rounds": 1, "workers": 0}
    result = bench_loader([shards], img_size=32, others=OTHERS, **quick)
    assert result["processes"] == {} and len(result["one_core"]) == 6
    assert "worker processes" not in table(result)


@pytest.mark.parametrize("start", [torchvision_batches, webdataset_batches])
def test_the_other_pipelines_make_normalised_batches_without_end(manifest, start):
    stream = start(manifest, SIZE, 4, 0)
    for _ in range(3 * len(manifest) // 4):
        batch = next(stream)
        assert batch.shape == (4, 3, *SIZE) and batch.dtype == torch.float32
        assert -3 < batch.min() < 0 < batch.max() < 3
    stream.close()


def test_reading_gives_every_sample(manifest):
    theirs = iter(webdataset_samples(manifest))
    assert {next(theirs)["__key__"] for _ in range(200)} == {
        manifest.key(sample) for sample in range(24)
    }


def test_the_command_measures_and_writes(make_shards, tmp_path):
    shards = make_shards(tmp_path, 64, shard_size=32, size=(40, 50))
    out = tmp_path / "loader.json"
    # In a process of its own: webdataset leaves its shards open.
    program = [sys.executable, "-m", "benchmarks.loader", shards, "--quick", "--img-size", "32"]
    done = subprocess.run([*program, "--out", out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "times torchvision" in done.stdout
    assert json.loads(out.read_text())["machine"]["cores"] > 0
