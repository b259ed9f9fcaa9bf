"""`mae bench loader`: groups of pipelines, their rates, and the table."""

import json
from typing import Any

import pytest
import torch

from mae.base.errors import UserError
from mae.commands.bench.loader import ALONE, Others, bench_loader
from mae.commands.bench.loader_table import loader_table

QUICK: dict[str, Any] = {"images": 16, "batch_size": 4, "rounds": 2, "workers": 1}
GROUPS = ("one_core", "processes", "reading")


def measured(shards: str, short: str, others: Others = ALONE) -> dict:
    """Result of a short measurement, which restores torch's number of threads."""
    before = torch.get_num_threads()
    result = bench_loader([shards], short=[short], img_size=32, others=others, **QUICK)
    assert torch.get_num_threads() == before
    return result


def check_rates(result: dict) -> None:
    """Check that rates and ratios are positive and in order."""
    for group in GROUPS:
        for rates in result[group].values():
            for spread in rates.values():
                assert 0 < spread["low"] <= spread["median"] <= spread["high"]


def check_table(result: dict, reference: str) -> None:
    """Each pipeline has one row; ratios are to `reference`."""
    text = loader_table(result)
    assert all(len(line) <= 120 for line in text.splitlines())
    for group in GROUPS:
        for name, rates in result[group].items():
            row = f"  {name:<32}{rates['images_per_s']['median']:>12,.0f}"
            assert sum(line.startswith(row) for line in text.splitlines()) == 1
    assert f"times {reference}" in text and "µs per image" in text and "decode" in text


@pytest.fixture(scope="module")
def result(loader_shards, short_shards):
    return measured(loader_shards, short_shards)


def test_all_parts_of_the_loader_are_measured(result):
    assert list(result["one_core"]) == [
        "mae",
        "mae, 4 views of a decoded image",
        "mae, crops left to the device",
        "mae, JPEGs left to the device",
        "mae, short images",
    ]
    assert list(result["processes"]) == ["mae"]
    assert list(result["reading"]) == ["mae"]
    check_rates(result)
    assert result["one_core"]["mae"]["ratio"] == {"median": 1, "low": 1, "high": 1}


def test_the_result_is_json_and_describes_the_measurement(result):
    assert json.loads(json.dumps(result)) == result
    assert result["images"] == 16 and result["rounds"] == 2 and result["workers"] == 1
    assert result["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert result["machine"]["cores"] >= 1 and result["machine"]["cpu"]


def test_the_table_has_one_row_for_each_pipeline(result):
    check_table(result, "mae")


def test_without_workers_and_short_images(loader_shards):
    quick = QUICK | {"images": 4, "batch_size": 2, "rounds": 1, "workers": 0}
    result = bench_loader([loader_shards], img_size=32, **quick)
    assert result["processes"] == {} and len(result["one_core"]) == 4
    assert "worker processes" not in loader_table(result)


def test_too_few_images_are_an_error(loader_shards):
    with pytest.raises(UserError, match="bench: 24 JPEG and PNG images, not 64"):
        bench_loader([loader_shards], images=64, batch_size=64)


@pytest.mark.parametrize(("images", "batch_size"), [(10, 4), (2, 4), (0, 4)])
def test_rounds_are_whole_batches(loader_shards, images, batch_size):
    with pytest.raises(UserError, match=f"{images} images are no multiple of the batch of 4"):
        bench_loader([loader_shards], images=images, batch_size=batch_size)
