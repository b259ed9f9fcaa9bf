"""Measurements of a data set's growth: each yields its rows."""

import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from benchmarks import growth, growth_requests, manifest, measured


@pytest.fixture
def data(tmp_path, make_shards):
    """Folder with small images in the place of the real ones."""
    folder = tmp_path / "data"
    for name, split, size in (("cifar10", "test", (32, 32)), ("clothing", "train", (40, 50))):
        make_shards(folder / name, 32, shard_size=16, size=size)
        for shard in (folder / name).glob("*.tar"):
            shard.rename(folder / name / shard.name.replace("shard", split))
    (folder / "kodak").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (512, 768, 3), dtype=np.uint8)
    for number in range(2):
        Image.fromarray(noise[:, :: -1 if number % 2 else 1]).save(folder / f"kodak/{number}.png")
    return folder


def test_every_section_is_measured_and_recorded(data, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(growth, "ROUNDS", 1)
    monkeypatch.setattr(growth, "CROPS", 3)
    monkeypatch.setattr(growth, "SAMPLES", 1_000)
    monkeypatch.setattr(growth, "write_shard", partial(manifest.write_shard, samples=500))
    for module in (growth, manifest):
        monkeypatch.setattr(module, "EACH", 500)
    monkeypatch.setattr(growth_requests, "SHARDS", 20)
    monkeypatch.setattr(growth_requests, "COPIES", (3, 5))
    monkeypatch.setattr(growth_requests, "FETCHED", 2)
    monkeypatch.setattr(measured, "FILE", tmp_path / "measured.json")
    assert growth.main([str(data), "--record"]) == 0
    found = json.loads((tmp_path / "measured.json").read_text())
    assert list(found) == ["cache", "images", "requests", "rows"]
    assert len(found["images"]["rows"]) == 12
    assert all(row["images_per_s"] > 0 for row in found["images"]["rows"])
    requests = [row["requests"] for row in found["requests"]["rows"]]
    assert requests == [2, 1, 60, 20]
    assert [row["copies"] for row in found["cache"]["rows"]] == [3, 5]
    works = {row["work"]: row for row in found["rows"]["rows"]}
    assert len(works) == 10 and works["sha256"]["mb_per_s"] > 0
    assert works["write a manifest from indexes in memory"]["rows_per_s"] > 0
    assert found["rows"]["command"] == "python -m benchmarks.growth DATA --only rows"
    assert "requests 60" in capsys.readouterr().out


def test_a_section_is_replaced_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FILE", tmp_path / "measured.json")
    measured.record("one", "command", [{"a": 1}])
    measured.record("two", "command", [{"b": 2}])
    measured.record("one", "other", [{"a": 3}])
    found = measured.measured()
    assert found["one"]["rows"] == [{"a": 3}] and found["two"]["rows"] == [{"b": 2}]
    assert found["one"]["command"] == "other" and found["one"]["date"][:2] == "20"


@pytest.mark.parametrize(
    ("write", "samples"), [(manifest.write, 50_000), (manifest.write_holes, 30_000_000)]
)
def test_a_batch_far_into_a_manifest(write, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "BATCH", 8)
    monkeypatch.setattr(manifest, "EACH", 500)
    monkeypatch.setattr("sys.stdin", io.StringIO("measure\n" * 3))
    file = write(tmp_path, manifest.write_shard(tmp_path, 500), samples)
    for order in manifest.ORDERS:
        found = manifest.measure(file, order)
        assert found["first_batch"] > 0 and found["private"] < 100
