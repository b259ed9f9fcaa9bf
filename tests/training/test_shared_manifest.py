"""One process of a machine makes the manifests, the others map them: simulated processes."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.data.images import Images
from mae.data.indexing import build_manifest, write_index
from mae.data.joined_manifests import merge
from mae.data.opening import training_manifests
from mae.storage.cache import build_cache
from mae.training import shared_manifest
from mae.training.shared_manifest import shared_manifests
from tests.servers import body

SHARDS = 1500


class Process(NamedTuple):
    """Stands for accelerate's Accelerator."""

    process_index: int
    local_process_index: int
    num_processes: int

    @property
    def is_local_main_process(self):
        return self.local_process_index == 0


def simulated(monkeypatch, processes, build, index_dir, per_machine=64):
    """Result or error of each process: the first of each machine run first, as they do."""
    outcomes, results = [None] * processes, [None] * processes

    def gathered(own):
        outcomes[current] = own[0]
        return list(outcomes)

    monkeypatch.setattr(shared_manifest, "gather_object", gathered)
    order = sorted(range(processes), key=lambda rank: (rank % per_machine > 0, rank))
    for current in order:
        outcomes[current] = shared_manifest._Outcome(())
    for current in order:
        process: Any = Process(current, current % per_machine, processes)
        try:
            results[current] = shared_manifests(process, build, index_dir)
        except UserError as error:
            results[current] = error
    return results


@pytest.fixture
def published(tmp_path, make_shards, server):
    """Address of a manifest of 1,500 shards on a server, one image each."""
    local = tmp_path / "local"
    make_shards(local, SHARDS, shard_size=1)
    file = local / "all.safetensors"
    write_index([f"{local}/*.tar"], file, "index")
    for path in local.glob("*.tar"):
        server.serve(f"/{path.name}", body(path.read_bytes(), etag="1"))
    return server.serve(f"/{file.name}", body(file.read_bytes(), etag="1"))


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("processes", [2, 64])
def test_a_published_manifest_needs_a_handful_of_requests(
    tmp_path, published, server, monkeypatch, processes
):
    data = DataConfig(
        train=(published,), index_dir=tmp_path / "index", cache_dir=tmp_path / "cache"
    )
    for _ in range(2):  # a first start and a later one
        server.requests.clear()
        found = simulated(monkeypatch, processes, lambda: training_manifests(data), data.index_dir)
        assert [len(merge(one)) for one in found] == [SHARDS] * processes
        assert len(server.requests) <= 10
    server.requests.clear()
    for one in found[:2]:  # of one machine: each shard is fetched once
        images = Images(merge(one), 3, cache=build_cache(data))
        assert [images[sample].shape[0] for sample in range(5)] == [3] * 5
    assert sorted(server.requests) == [f"GET /shard-{number:06d}.tar" for number in range(5)]


def test_indexes_of_shards_are_read_by_one_process_of_each_machine(
    tmp_path, make_shards, monkeypatch
):
    shards = make_shards(tmp_path / "set", 6, shard_size=2)
    calls = []

    def build():
        calls.append(None)
        return [build_manifest([shards]), build_manifest([shards])]

    found = simulated(monkeypatch, 6, build, tmp_path / "index", per_machine=3)
    assert len(calls) == 2
    expected = merge(build())
    for one in found:
        assert all(part.source is not None for part in one)
        assert merge(one).fingerprint == expected.fingerprint
        assert merge(one).datasets == (3, 3)
        assert list(merge(one).shards) == list(expected.shards)
    assert len(list((tmp_path / "index" / "manifests").glob("*.safetensors"))) == 1


def test_without_a_folder_to_write_every_process_reads_the_indexes(
    tmp_path, make_shards, monkeypatch
):
    shards = make_shards(tmp_path / "set", 6, shard_size=2)
    (tmp_path / "index").touch()  # no folder
    found = simulated(monkeypatch, 3, lambda: [build_manifest([shards])], tmp_path / "index")
    assert [len(merge(one)) for one in found] == [6, 6, 6]


def test_an_error_of_one_process_is_that_of_all(tmp_path, monkeypatch):
    missing = f"{tmp_path}/*.tar"
    found = simulated(monkeypatch, 3, lambda: [build_manifest([missing])], tmp_path / "index")
    assert {str(one) for one in found} == {f"data.train: no such shard: {missing}"}


def test_addresses_with_signatures_are_not_written(tmp_path, make_shards, monkeypatch):
    known = build_manifest([make_shards(tmp_path / "set", 2)])
    signed = known.changed(shards=("https://host/a.tar?X-Amz-Signature=secret",))
    for one in simulated(monkeypatch, 2, lambda: [signed], tmp_path / "index"):
        assert list(merge(one).shards) == list(signed.shards)
    assert not (tmp_path / "index").exists()


def test_equal_samples_elsewhere_and_shards_packed_anew_have_files_of_their_own(
    tmp_path, make_shards, monkeypatch
):
    make_shards(tmp_path / "a", 4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder in ("a", "b"):
        monkeypatch.chdir(tmp_path / folder)
        (found, _) = simulated(
            monkeypatch, 2, lambda: [build_manifest(["*.tar"])], tmp_path / "index"
        )
        assert Path(merge(found).shards[0]).parent == tmp_path / folder
    known = build_manifest([f"{tmp_path}/b/*.tar"])
    anew = known.changed(sha256=known.sha256 ^ 1)
    (found, _) = simulated(monkeypatch, 2, lambda: [anew], tmp_path / "index")
    assert merge(found).identity(0) == anew.identity(0)


def test_a_damaged_shared_file_is_written_anew(tmp_path, make_shards, monkeypatch):
    shards = make_shards(tmp_path / "set", 4)
    for _ in range(2):
        found = simulated(monkeypatch, 2, lambda: [build_manifest([shards])], tmp_path / "index")
        assert all(part.source is not None for one in found for part in one)
        (file,) = (tmp_path / "index" / "manifests").glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-5])


def test_a_single_process_writes_nothing(tmp_path, make_shards):
    shards = make_shards(tmp_path / "set", 6, shard_size=2)
    (found,) = shared_manifests(
        Process(0, 0, 1),  # pyrefly: ignore  # stands for an Accelerator
        lambda: [build_manifest([shards])],
        tmp_path / "index",
    )
    assert found.source is None and not (tmp_path / "index").exists()
