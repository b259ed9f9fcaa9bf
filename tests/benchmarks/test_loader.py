"""`python -m benchmarks.loader`: our loader compared with other pipelines."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from benchmarks.loader import (
    OTHERS,
    torchvision_batches,
    webdataset_batches,
    webdataset_samples,
)
from mae.commands.bench.loader import bench_loader
from mae.commands.bench.loader_table import loader_table
from tests.commands.bench.test_loader import QUICK, check_rates, check_table, measured

SIZE = (32, 32)

# webdataset leaves its shards to be closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    """Collect garbage while the warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def result(loader_shards, short_shards):
    return measured(loader_shards, short_shards, OTHERS)


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
    check_rates(result)
    assert result["one_core"]["torchvision"]["ratio"] == {"median": 1, "low": 1, "high": 1}


def test_the_table_has_one_row_for_each_pipeline(result):
    check_table(result, "torchvision")


def test_without_workers_and_short_images(loader_shards):
    quick = QUICK | {"images": 4, "batch_size": 2, "rounds": 1, "workers": 0}
    result = bench_loader([loader_shards], img_size=32, others=OTHERS, **quick)
    assert result["processes"] == {} and len(result["one_core"]) == 6
    assert "worker processes" not in loader_table(result)


@pytest.mark.parametrize("start", [torchvision_batches, webdataset_batches])
def test_the_other_pipelines_make_normalised_batches_without_end(loader_manifest, start):
    stream = start(loader_manifest, SIZE, 4, 0)
    for _ in range(3 * len(loader_manifest) // 4):
        batch = next(stream)
        assert batch.shape == (4, 3, *SIZE) and batch.dtype == torch.float32
        assert -3 < batch.min() < 0 < batch.max() < 3
    stream.close()


def test_webdataset_reads_every_sample(loader_manifest):
    theirs = iter(webdataset_samples(loader_manifest))
    assert {next(theirs)["__key__"] for _ in range(200)} == {
        loader_manifest.key(sample) for sample in range(24)
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
