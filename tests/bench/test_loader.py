import json
import time

import pytest
import torch

from mae.base.errors import UserError
from mae.bench.loader import bench_loader
from mae.bench.pixels import pixel_differences
from mae.bench.report import table
from mae.bench.samples import copy_samples
from mae.bench.stages import StagedBatches
from mae.bench.stream import our_bytes
from mae.bench.timing import interleaved
from mae.data.manifest import build_manifest
from mae.data.shard_reader import ShardReader
from mae.data.transform import apply_view_into
from mae.decoding.decode import decode

SIZE = (32, 32)


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
    result = bench_loader([shards], short=[short], img_size=32, **quick)
    assert torch.get_num_threads() == before
    return result


def test_all_of_the_loader_is_measured(result):
    assert list(result["one_core"]) == [
        "mae",
        "mae, 4 views of a decoded image",
        "mae, crops left to the device",
        "mae, JPEGs left to the device",
        "mae, short images",
    ]
    assert list(result["processes"]) == ["mae"]
    assert list(result["reading"]) == ["mae"]
    for group in ("one_core", "processes", "reading"):
        for rates in result[group].values():
            for spread in rates.values():
                assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert result["one_core"]["mae"]["ratio"] == {"median": 1, "low": 1, "high": 1}


def test_the_result_tells_what_was_measured_and_where(result):
    assert json.loads(json.dumps(result)) == result
    assert result["images"] == 16 and result["rounds"] == 2 and result["workers"] == 1
    assert result["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert result["machine"]["cores"] >= 1 and result["machine"]["cpu"]


def test_the_table_holds_every_number_once(result):
    text = table(result)
    assert all(len(line) <= 120 for line in text.splitlines())
    for group in ("one_core", "processes", "reading"):
        for name, rates in result[group].items():
            row = f"  {name:<32}{rates['images_per_s']['median']:>12,.0f}"
            assert sum(line.startswith(row) for line in text.splitlines()) == 1
    assert "times mae" in text and "µs per image" in text and "decode" in text


def test_without_workers_and_short_images(shards):
    result = bench_loader([shards], img_size=32, images=4, batch_size=2, rounds=1, workers=0)
    assert result["processes"] == {} and len(result["one_core"]) == 4
    assert "worker processes" not in table(result)


def test_too_few_images_are_told(shards):
    with pytest.raises(UserError, match="bench: 24 JPEG and PNG images, not 64"):
        bench_loader([shards], images=64, batch_size=64)


@pytest.mark.parametrize(("images", "batch_size"), [(10, 4), (2, 4), (0, 4)])
def test_rounds_are_whole_batches(shards, images, batch_size):
    with pytest.raises(UserError, match=f"{images} images are no multiple of the batch of 4"):
        bench_loader([shards], images=images, batch_size=batch_size)


def test_copies_are_the_bytes_from_all_over_with_their_labels(manifest, tmp_path):
    copied = copy_samples(manifest, 6, tmp_path / "copied", shards=4)
    assert len(copied) == 6 and len(copied.shards) == 4
    keys = sorted(int(copied.key(sample)) for sample in range(6))
    assert keys == [0, 4, 8, 12, 16, 20]
    reader, original = ShardReader(copied), ShardReader(manifest)
    for sample in range(6):
        source = int(copied.key(sample))
        assert reader.read(sample) == original.read(source)
        assert copied.label[sample] == manifest.label[source]


def test_bad_images_are_left_out_of_the_copy(tmp_path, make_shards, make_tar):
    good = build_manifest([make_shards(tmp_path / "good", 2)])
    bytes_of = [bytes(ShardReader(good).read(sample)) for sample in range(2)]
    members = [("a.jpg", bytes_of[0]), ("b.jpg", b"no image"), ("c.jpg", bytes_of[1])]
    manifest = build_manifest([str(make_tar(tmp_path / "mixed.tar", members))])
    copied = copy_samples(manifest, 2, tmp_path / "copied", shards=1)
    assert [copied.key(sample) for sample in range(2)] == ["000000000", "000000002"]
    with pytest.raises(UserError, match="2 JPEG and PNG images, not 3"):
        copy_samples(manifest, 3, tmp_path / "again", shards=1)


def test_reading_gives_every_sample(manifest):
    ours = our_bytes(manifest)
    originals = [ShardReader(manifest).read(sample) for sample in range(24)]
    assert sorted(next(ours) for _ in range(48)) == sorted(originals * 2)


def test_the_parts_of_a_batch_are_timed_in_place(manifest, monkeypatch):
    def slow(function, seconds):
        def slowly(*arguments):
            time.sleep(seconds)
            return function(*arguments)

        return slowly

    monkeypatch.setattr("mae.data.images.decode", slow(decode, 0.004))
    monkeypatch.setattr("mae.data.views.apply_view_into", slow(apply_view_into, 0.002))
    staged = StagedBatches(manifest, SIZE, batch_size=8)
    for _ in range(2):
        stages = staged.next_batch()
        assert stages.decoding > 0.032 and stages.resizing > 0.016
        assert 0 < stages.reading < stages.rest
        assert stages.whole == pytest.approx(stages.decoding + stages.resizing + stages.rest)
        assert stages.rest < stages.whole / 2
    staged.stream.close()


def test_pixels_are_pillows(manifest):
    differences = pixel_differences(manifest, SIZE)
    assert differences["decode"] == {"mean": 0, "max": 0}
    for name in ("view", "device crop"):
        assert 0 <= differences[name]["mean"] <= 0.1
        assert differences[name]["max"] <= 3


def test_pixels_that_are_not_pillows_are_told(manifest, monkeypatch):
    monkeypatch.setattr("mae.bench.pixels.decode", lambda *arguments: decode(*arguments) ^ 1)
    assert pixel_differences(manifest, SIZE)["decode"] == {"mean": 1, "max": 1}


def test_rounds_go_in_turn_and_the_first_does_not_count():
    order, told = [], []

    def task(name):
        order.append(name)
        return float(len(order))

    seconds = interleaved(
        {"a": lambda: task("a"), "b": lambda: task("b")}, 2, lambda *rounds: told.append(rounds)
    )
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert told == [(1, 3), (2, 3), (3, 3)]
