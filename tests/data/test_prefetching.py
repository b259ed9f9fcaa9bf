import multiprocessing
import threading
import time

import numpy as np
import pytest

from mae.base.errors import StorageError
from mae.data import prefetching
from mae.data.indexing import build_manifest
from mae.data.order import Order
from mae.data.prefetching import prefetch_shards
from mae.data.shard_reader import ShardReader
from mae.storage.cache import ShardCache
from tests.servers import body, status
from tests.waiting import wait_for

SHARDS, EACH = 8, 4


pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture
def local(tmp_path, make_shards):
    return build_manifest([make_shards(tmp_path / "local", SHARDS * EACH, shard_size=EACH)])


@pytest.fixture
def remote(tmp_path, local, server):
    """(manifest, empty cache): eight shards of four samples on a server."""
    urls = []
    for number, shard in enumerate(local.shards):
        with open(shard, "rb") as file:  # noqa: PTH123
            urls.append(server.serve(f"/{number}.tar", body(file.read(), etag="1")))
    cache = ShardCache(tmp_path / "cache", 10**9)
    manifest = build_manifest(urls, index_dir=tmp_path / "index", cache=cache)
    for copy in cache.folder.glob("*.tar"):
        copy.unlink()
    server.requests.clear()
    return manifest, cache


def one_shard_after_the_other(manifest):
    """An order of windows of one shard; and micro-batches that are half a shard each."""
    order = Order(0, manifest.dataset_counts(), mode="window", window=1)
    halves = [range(start, start + 2) for start in range(0, SHARDS * EACH, 2)]
    shards = manifest.shard_of(order(np.arange(0, SHARDS * EACH, EACH)).sample).tolist()
    return order, halves, shards


def fetched(server):
    return [
        int(request.removeprefix("GET /")[0])
        for request in server.requests
        if request.startswith("GET")
    ]


@pytest.mark.parametrize("ahead", [0, 1, 5, 100])
def test_micro_batches_come_through_unchanged(remote, ahead):
    manifest, cache = remote
    order, halves, _ = one_shard_after_the_other(manifest)
    assert list(prefetch_shards(iter(halves), manifest, order, cache, ahead)) == halves


def test_the_shards_of_the_next_micro_batches_are_fetched_once_and_no_others(remote, server):
    manifest, cache = remote
    order, halves, shards = one_shard_after_the_other(manifest)
    stream = prefetch_shards(halves, manifest, order, cache, ahead=3)
    for taken in range(1, len(halves) + 1):
        next(stream)  # the one taken and three beyond
        wanted = shards[: min(SHARDS, (taken + 3 + 1) // 2)]
        wait_for(lambda wanted=wanted: len(fetched(server)) >= len(wanted))
        assert sorted(fetched(server)) == sorted(wanted)
    assert list(stream) == []
    assert sorted(fetched(server)) == list(range(SHARDS))


def test_what_was_fetched_ahead_is_not_fetched_again_by_the_reader(remote, server):
    manifest, cache = remote
    order, halves, _ = one_shard_after_the_other(manifest)
    reader = ShardReader(manifest, cache)
    for positions in prefetch_shards(halves, manifest, order, cache, ahead=4):
        for sample in order(np.arange(positions.start, positions.stop)).sample.tolist():
            reader.read(sample)
    assert sorted(fetched(server)) == list(range(SHARDS))


def test_a_failure_is_left_to_whoever_needs_the_shard(remote, server):
    manifest, cache = remote
    order, halves, shards = one_shard_after_the_other(manifest)
    server.serve(f"/{shards[1]}.tar", status(404))
    assert list(prefetch_shards(halves, manifest, order, cache, ahead=4)) == halves
    with pytest.raises(StorageError, match=f"/{shards[1]}.tar: no such file"):
        ShardReader(manifest, cache).read(int(manifest.first[shards[1]]))


def test_local_shards_are_left_alone(local, tmp_path):
    cache = ShardCache(tmp_path / "cache", 10**9)
    order, halves, _ = one_shard_after_the_other(local)
    before = threading.active_count()
    stream = prefetch_shards(iter(halves), local, order, cache, ahead=4)
    assert next(stream) == halves[0]
    assert threading.active_count() == before and not cache.folder.exists()
    assert list(stream) == halves[1:]


def test_only_the_remote_shards_of_a_mixed_list_are_fetched(remote, local, server, tmp_path):
    urls, cache = remote[0].shards, remote[1]
    mixed = build_manifest(
        [*local.shards[:4], *urls[4:]], index_dir=tmp_path / "index", cache=cache
    )
    order, halves, _ = one_shard_after_the_other(mixed)
    server.requests.clear()
    stream = prefetch_shards(halves, mixed, order, cache, ahead=100)
    assert next(stream) == halves[0]
    wait_for(lambda: len(fetched(server)) == 4)
    assert list(stream) == halves[1:]
    assert sorted(fetched(server)) == [4, 5, 6, 7]


def test_a_shard_of_long_ago_may_be_asked_for_again(remote, monkeypatch):
    """The next epoch requests a shard again, as it may be evicted; the record is bounded."""
    manifest, cache = remote
    asked = []

    class Threads:
        def submit(self, fetch, shard):
            asked.append(shard)

        def close(self):
            pass

    monkeypatch.setattr(prefetching, "REQUESTED", 2)
    monkeypatch.setattr(prefetching, "BackgroundThreads", lambda *_: Threads())
    order = Order(0, manifest.dataset_counts(), mode="window", window=1)
    epochs = [range(start, start + EACH) for start in range(0, 3 * SHARDS * EACH, EACH)]
    assert list(prefetch_shards(epochs, manifest, order, cache, ahead=1)) == epochs
    # A shard that ends an epoch may begin the next.
    assert 3 * SHARDS - 4 <= len(asked) <= 3 * SHARDS
    assert set(asked) == set(range(SHARDS))


def test_giving_up_the_stream_ends_the_downloads(remote, monkeypatch):
    manifest, cache = remote
    released, asked = threading.Event(), []
    before = set(threading.enumerate())

    def fetch(self, location, **_):
        asked.append(location)
        released.wait(20)

    monkeypatch.setattr(ShardCache, "fetch", fetch)
    order, halves, _ = one_shard_after_the_other(manifest)
    stream = prefetch_shards(halves, manifest, order, cache, ahead=100)
    next(stream)
    wait_for(lambda: len(asked) == prefetching.DOWNLOADS)
    stream.close()  # pyrefly: ignore  # a generator; returns at once, though downloads hang
    released.set()
    new = set(threading.enumerate()) - before
    for thread in new:
        if thread.name.startswith("fetch"):
            thread.join(20)
    assert len(asked) == prefetching.DOWNLOADS  # those that waited were never begun


def _fetch_all(manifest, order, cache):
    stream = prefetch_shards([range(len(manifest))] * 2, manifest, order, cache, ahead=1)
    next(stream)
    wait_for(lambda: len(list(cache.folder.glob("*.tar"))) == len(manifest.shards))


def test_the_processes_of_a_machine_share_the_shards(server, tmp_path, make_shards):
    """Processes want the same shards at once: none waits for one that another downloads."""
    make_shards(tmp_path / "local", 12, shard_size=1)
    running, most, lock = 0, 0, threading.Lock()

    def late(data):
        def answer(handler):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.5)
            with lock:
                running -= 1
            body(data)(handler)

        return answer

    urls = []
    for number, path in enumerate(sorted((tmp_path / "local").glob("*.tar"))):
        urls.append(server.serve(f"/{number}.tar", body(path.read_bytes())))
    cache = ShardCache(tmp_path / "cache", 10**9)
    manifest = build_manifest(urls, index_dir=tmp_path / "index", cache=cache)
    for number, shard in enumerate(manifest.shards):
        known = manifest.identity(number)
        (cache.folder / f"{known['sha256']}-{known['size']}.tar").unlink()
        data = (tmp_path / "local" / f"shard-{number:06d}.tar").read_bytes()
        server.serve(shard.removeprefix(server.url), late(data))
    server.requests.clear()
    order = Order(0, manifest.dataset_counts(), mode="window", window=12)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_fetch_all, args=(manifest, order, cache)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        process.kill()
        assert process.exitcode == 0
    assert most > prefetching.DOWNLOADS
    assert sorted(server.requests) == sorted(f"GET /{number}.tar" for number in range(12))
