import errno
import fcntl
import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from mae.base.errors import StorageError, UserError
from mae.storage import cache
from mae.storage.cache import ShardCache
from tests.servers import body, endless, slow, slow_unannounced, stall, status, unannounced

DATA = os.urandom(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
PLENTY = 10**9


@pytest.fixture(autouse=True)
def short_waits(monkeypatch, fast_retries):
    """Waits for room and retries too short to notice."""
    monkeypatch.setattr(cache, "ROOM_POLL_INTERVAL", 0.01)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "cache"


def copies(folder):
    return sorted(path for path in folder.glob("*.tar"))


def present(folder):
    """Bytes of copies and parts."""
    total = 0
    for path in (*folder.glob("*.tar"), *folder.glob("*.part")):
        with suppress(FileNotFoundError):  # renamed at this moment
            total += path.stat().st_size
    return total


def shards(server, count, size=1000):
    """URLs of `count` different shards, with the keyword arguments that fetch them."""
    found = []
    for number in range(count):
        data = bytes([number]) * size
        url = server.serve(f"/{number}.tar", body(data))
        found.append((url, {"size": size, "sha256": hashlib.sha256(data).hexdigest()}))
    return found


def refused(shard_cache, *args, error=StorageError, **options):
    with pytest.raises(error) as caught:
        shard_cache.fetch(*args, **options)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    "options",
    [
        {"sha256": SHA256},
        {"sha256": SHA256, "size": len(DATA)},
        {"version": "one"},
        {"version": "one", "size": len(DATA)},
    ],
)
def test_cached_shard_is_downloaded_once(server, folder, options):
    url = server.serve("/a.tar", body(DATA))
    path = ShardCache(folder, PLENTY).fetch(url, **options)
    assert path.read_bytes() == DATA
    for _ in range(3):  # another process, another day
        assert ShardCache(folder, PLENTY).fetch(url, **options) == path
    assert server.gets("/a.tar") == 1


def test_copy_stored_by_version_is_found_by_sha256(server, folder):
    url = server.serve("/a.tar", body(DATA))
    shard_cache = ShardCache(folder, PLENTY)
    path = shard_cache.fetch(url, len(DATA), version="one")
    assert shard_cache.fetch(url, len(DATA), SHA256) == path
    assert shard_cache.fetch(url, None, SHA256) == path
    assert server.gets("/a.tar") == 1


def test_new_signature_uses_the_same_copy(server, folder):
    url = server.serve("/a.tar", body(DATA))
    shard_cache = ShardCache(folder, PLENTY)
    shard_cache.fetch(f"{url}?X-Amz-Date=1&X-Amz-Signature=a", version="one")
    shard_cache.fetch(f"{url}?X-Amz-Date=2&X-Amz-Signature=b", version="one")
    assert server.gets("/a.tar") == 1


def test_new_version_is_downloaded(server, folder):
    url = server.serve("/a.tar", body(DATA), body(DATA[::-1]))
    shard_cache = ShardCache(folder, PLENTY)
    assert shard_cache.fetch(url, version="one").read_bytes() == DATA
    assert shard_cache.fetch(url, version="two").read_bytes() == DATA[::-1]
    assert shard_cache.fetch(url, version="one").read_bytes() == DATA
    assert server.gets("/a.tar") == 2


def test_equal_base_names_are_not_confused(server, folder):
    first = server.serve("/x/a.tar", body(DATA))
    second = server.serve("/y/a.tar", body(DATA[::-1]))
    shard_cache = ShardCache(folder, PLENTY)
    assert shard_cache.fetch(first, version="one").read_bytes() == DATA
    assert shard_cache.fetch(second, version="one").read_bytes() == DATA[::-1]


def test_shard_without_identity_is_always_downloaded(server, folder):
    url = server.serve("/a.tar", unannounced(DATA), unannounced(DATA[::-1]))
    shard_cache = ShardCache(folder, PLENTY)
    assert shard_cache.fetch(url).read_bytes() == DATA
    assert shard_cache.fetch(url).read_bytes() == DATA[::-1]


def test_pipes(folder):
    assert "data.allow_pipe=true" in refused(
        ShardCache(folder, PLENTY), "pipe:printf abc", error=UserError
    )
    allowed = ShardCache(folder, PLENTY, allow_pipe=True)
    assert allowed.fetch("pipe:printf abc").read_bytes() == b"abc"
    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert allowed.fetch("pipe:exit 1", 3, sha256).read_bytes() == b"abc"


@pytest.mark.parametrize(
    "options", [{"sha256": SHA256}, {"sha256": SHA256, "size": len(DATA)}, {"version": "one"}]
)
def test_truncated_copy_is_downloaded_again(server, folder, options):
    url = server.serve("/a.tar", body(DATA))
    shard_cache = ShardCache(folder, PLENTY)
    os.truncate(shard_cache.fetch(url, **options), 5000)
    assert shard_cache.fetch(url, **options).read_bytes() == DATA
    assert server.gets("/a.tar") == 2


@pytest.mark.parametrize("options", [{"sha256": SHA256, "size": len(DATA)}, {"version": "one"}])
def test_discarded_copy_is_downloaded_again(server, folder, options):
    url = server.serve("/a.tar", body(DATA))
    shard_cache = ShardCache(folder, PLENTY)
    shard_cache.discard(url, **options)
    shard_cache.fetch(url, **options)
    shard_cache.discard(url, **options)
    assert not copies(folder)
    assert shard_cache.fetch(url, **options).read_bytes() == DATA
    assert server.gets("/a.tar") == 2


def test_wrong_checksum_is_retried_once(server, folder):
    bad = bytes(len(DATA))
    url = server.serve("/a.tar", body(bad), body(DATA))
    path = ShardCache(folder, PLENTY).fetch(url, len(DATA), SHA256)
    assert path.read_bytes() == DATA
    assert server.gets("/a.tar") == 2


def test_wrong_checksum_is_an_error(server, folder):
    bad = bytes(len(DATA))
    url = server.serve("/a.tar", body(bad)) + "?sig=SECRET"
    line = refused(ShardCache(folder, PLENTY), url, len(DATA), SHA256)
    assert line.startswith(f"{server.url}/a.tar: its sha256 is ")
    assert hashlib.sha256(bad).hexdigest()[:12] in line
    assert SHA256[:12] in line
    assert "damaged in transit, or changed since" in line
    assert "in data.index_dir or ~/.cache/mae/index, and renew the one published beside it" in line
    assert server.gets("/a.tar") == 2
    assert not list(folder.glob("*.part"))
    assert not copies(folder)


def test_error_page_is_not_cached(server, folder):
    url = server.serve("/a.tar", body(b"<html>Please log in</html>"))
    assert "has 26 bytes, expected 100000" in refused(
        ShardCache(folder, PLENTY), url, len(DATA), SHA256
    )


def test_failed_download_leaves_no_files(server, folder):
    url = server.serve("/a.tar", status(503))
    assert "HTTP 503" in refused(ShardCache(folder, PLENTY), url, version="one")
    assert [path.suffix for path in folder.iterdir()] == [".lock"] * len(list(folder.iterdir()))


# Concurrency


def _fetch_in_child(shard_cache, url, sha256, results):
    try:
        results.put(shard_cache.fetch(url, len(DATA), sha256).read_bytes() == DATA)
    except UserError as error:
        results.put(str(error))


def in_processes(count, shard_cache, url, sha256=SHA256):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    args = (shard_cache, url, sha256, results)
    processes = [context.Process(target=_fetch_in_child, args=args) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        return [results.get(timeout=30) for _ in processes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
        results.close()
        results.join_thread()


def test_many_processes_and_threads_share_a_download(server, folder):
    url = server.serve("/a.tar", slow(DATA, 5, 0.05))
    shard_cache = ShardCache(folder, PLENTY)
    fetched = []
    threads = [
        threading.Thread(target=lambda: fetched.append(shard_cache.fetch(url, None, SHA256)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    assert in_processes(3, shard_cache, url) == [True] * 3
    for thread in threads:
        thread.join()
    assert len(fetched) == 6
    assert server.gets("/a.tar") == 1


def test_fetch_without_wait_returns_none_during_a_download(server, folder):
    url = server.serve("/a.tar", slow(DATA, 10, 0.05))
    shard_cache = ShardCache(folder, PLENTY)
    thread = threading.Thread(target=shard_cache.fetch, args=(url, None, SHA256))
    thread.start()
    while not list(folder.glob("*.part")):
        time.sleep(0.01)
    assert shard_cache.fetch(url, None, SHA256, wait=False) is None
    assert thread.is_alive()
    thread.join()
    copy = shard_cache.fetch(url, None, SHA256, wait=False)
    assert copy is not None and copy.read_bytes() == DATA
    assert server.gets("/a.tar") == 1


def test_fetch_without_wait_downloads_where_nobody_else_does(server, folder):
    copy = ShardCache(folder, PLENTY).fetch(server.serve("/a.tar", body(DATA)), wait=False)
    assert copy is not None and copy.read_bytes() == DATA


def test_concurrent_fetches_without_identity_share_a_download(server, folder):
    url = server.serve("/a.tar", slow(DATA, 10, 0.05))
    shard_cache = ShardCache(folder, PLENTY)
    threads = [threading.Thread(target=shard_cache.fetch, args=(url,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.gets("/a.tar") == 1


def test_waiting_process_takes_over_from_a_killed_one(server, folder):
    url = server.serve("/a.tar", stall(DATA), body(DATA))
    shard_cache = ShardCache(folder, PLENTY)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_fetch_in_child, args=(shard_cache, url, SHA256, results))
    child.start()
    while not any(part.stat().st_size for part in folder.glob("*.part")):
        time.sleep(0.01)
    fetched = []
    waiter = threading.Thread(target=lambda: fetched.append(shard_cache.fetch(url, None, SHA256)))
    waiter.start()
    time.sleep(0.1)
    assert not fetched
    assert not copies(folder)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    results.close()
    results.join_thread()
    waiter.join(20)
    assert fetched[0].read_bytes() == DATA
    assert server.gets("/a.tar") == 2
    assert not list(folder.glob("*.part"))


def test_parts_of_killed_processes_are_deleted(server, folder):
    ((first, options),) = shards(server, 1)
    folder.mkdir(parents=True)
    (folder / "abc-900.part").write_bytes(bytes(900))
    (folder / "abd-900.part").write_bytes(bytes(900))
    with (folder / "abd.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as the process that downloads would
        ShardCache(folder, 2000).fetch(first, **options)
        assert [part.name for part in folder.glob("*.part")] == ["abd-900.part"]


def test_cache_can_be_pickled(folder):
    shard_cache = ShardCache(folder, 5, True)
    assert pickle.loads(pickle.dumps(shard_cache)) == shard_cache


# Size limit


def test_least_recently_used_copies_are_evicted_first(server, folder):
    shard_cache = ShardCache(folder, 3000)
    wanted = shards(server, 5)
    paths = []
    for number, (url, options) in enumerate(wanted[:3]):
        paths.append(shard_cache.fetch(url, **options))
        os.utime(paths[-1], (number, number))
    shard_cache.fetch(wanted[0][0], **wanted[0][1])
    paths.append(shard_cache.fetch(wanted[3][0], **wanted[3][1]))
    assert [path.exists() for path in paths] == [True, False, True, True]
    paths.append(shard_cache.fetch(wanted[4][0], **wanted[4][1]))
    assert [path.exists() for path in paths] == [True, False, False, True, True]
    assert sum(path.stat().st_size for path in copies(folder)) == 3000


def test_copies_are_not_looked_at_while_there_is_room(server, folder, monkeypatch):
    """Of 10,000 copies that took most of a second a download, one at a time."""
    monkeypatch.setattr("mae.storage.cache.least_recently_used", None)
    monkeypatch.setattr("mae.storage.cache.remove_dangling", None)
    shard_cache = ShardCache(folder, 5000)
    for url, options in shards(server, 5):
        shard_cache.fetch(url, **options)
    assert len(copies(folder)) == 5


def test_links_to_evicted_copies_are_deleted(server, folder):
    shard_cache = ShardCache(folder, 2000)
    for url, options in shards(server, 6):
        shard_cache.fetch(url, options["size"], version="one")
    assert len(list(folder.glob("*.ref"))) <= 3


def test_open_copy_stays_readable_after_eviction(server, folder):
    first, second = shards(server, 2)
    shard_cache = ShardCache(folder, 1000)
    with shard_cache.fetch(first[0], **first[1]).open("rb") as file:
        shard_cache.fetch(second[0], **second[1])
        assert len(copies(folder)) == 1
        assert file.read() == bytes(1000)


def test_copy_evicted_before_it_is_opened_is_downloaded_again(server, folder):
    ((url, options),) = shards(server, 1)
    shard_cache = ShardCache(folder, 1000)
    stop = threading.Event()

    def evict_all():
        while not stop.is_set():
            for copy in copies(folder):
                copy.unlink(missing_ok=True)
            time.sleep(0.001)

    thread = threading.Thread(target=evict_all)
    thread.start()
    try:
        for _ in range(20):
            with shard_cache.open(url, **options) as file:
                assert file.read() == bytes(1000)
    finally:
        stop.set()
        thread.join()


def test_running_downloads_count_towards_the_limit(server, folder):
    """Eight threads, room for two shards: never more on disk, and every thread gets its shard."""
    shard_cache = ShardCache(folder, 2000)
    wanted = shards(server, 8)
    for number, (_, options) in enumerate(wanted):
        data = bytes([number]) * options["size"]
        server.serve(f"/{number}.tar", slow(data, 4, 0.02))
    done = []
    threads = [
        threading.Thread(
            target=lambda url=url, o=o: done.append(shard_cache.fetch(url, **o)), daemon=True
        )
        for url, o in wanted
    ]
    for thread in threads:
        thread.start()
    most = 0
    deadline = time.monotonic() + 30
    while any(thread.is_alive() for thread in threads):
        assert time.monotonic() < deadline
        sizes = {}  # by inode: a file renamed during the listing is listed twice
        for path in folder.iterdir() if folder.exists() else ():
            if path.suffix in (".part", ".tar"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    sizes[status.st_ino] = status.st_size
        most = max(most, sum(sizes.values()))
        time.sleep(0.002)
    assert len(done) == 8
    assert 0 < most <= 2000
    assert sum(path.stat().st_size for path in copies(folder)) <= 2000


@pytest.mark.parametrize("size", [len(DATA), None])
def test_shard_over_the_limit_is_refused(server, folder, size):
    url = server.serve("/a.tar", body(DATA))
    line = refused(ShardCache(folder, 50_000), url, size, version="1", error=UserError)
    assert line == f"{url}: " + (
        "0.0001 GB do not fit into 5e-05 GB: raise data.cache_gb"
        if size
        else "sends more than the 5e-05 GB of the cache: raise data.cache_gb, if that is a shard"
    )
    assert server.gets("/a.tar") == (size is None)
    assert not copies(folder)


def test_shard_of_unknown_size_is_counted_after_its_download(server, folder):
    shard_cache = ShardCache(folder, 2000)
    for number, (url, _) in enumerate(shards(server, 4)):
        shard_cache.fetch(url, version=str(number))
    assert sum(path.stat().st_size for path in copies(folder)) == 2000


# Disk errors


def test_uncreatable_folder_is_reported(server, tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    url = server.serve("/a.tar", body(DATA))
    line = refused(ShardCache(folder, PLENTY), url, version="1")
    assert line == f"data.cache_dir: {folder}: cannot be used: Not a directory"


def test_folder_without_permission_is_reported(server, folder):
    if not os.geteuid():
        pytest.skip("root may write everywhere")
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    url = server.serve("/a.tar", body(DATA))
    line = refused(ShardCache(folder, PLENTY), url, version="1")
    assert line == f"data.cache_dir: {folder}: cannot be used: Permission denied"


def _fetch_with_small_files(shard_cache, url, results):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    _fetch_in_child(shard_cache, url, SHA256, results)


def test_file_size_limit_is_reported(server, folder):
    other = server.serve("/b.tar", body(b"other"))
    url = server.serve("/a.tar", body(DATA))
    shard_cache = ShardCache(folder, PLENTY)
    kept = shard_cache.fetch(other, version="one")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_fetch_with_small_files, args=(shard_cache, url, results))
    child.start()
    line = results.get(timeout=20)
    child.join()
    results.close()
    results.join_thread()
    assert line.startswith(f"data.cache_dir: {folder}: File too large: {url} needs 0.0001 GB, ")
    assert line.endswith("free: lower data.cache_gb or choose another data.cache_dir")
    assert kept.exists()
    assert shard_cache.fetch(url, len(DATA), SHA256).read_bytes() == DATA


@pytest.fixture
def small_disk(tmp_path):
    """File system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_evicts_copies(server, small_disk):
    shard_cache = ShardCache(small_disk / "cache", PLENTY)
    for url, options in shards(server, 3, size=100_000):
        path = shard_cache.fetch(url, **options)
        assert path.stat().st_size == 100_000
    assert len(copies(small_disk / "cache")) == 2


def test_disk_full_of_other_files_is_reported(server, small_disk):
    shard_cache = ShardCache(small_disk / "cache", PLENTY)
    (small_disk / "filler").write_bytes(bytes(200_000))
    url = server.serve("/a.tar", body(DATA))
    line = refused(shard_cache, url, len(DATA), SHA256)
    assert "No space left on device" in line
    assert "lower data.cache_gb or choose another data.cache_dir" in line
    assert not list((small_disk / "cache").glob("*.part"))
    (small_disk / "filler").unlink()
    assert shard_cache.fetch(url, len(DATA), SHA256).read_bytes() == DATA


def test_full_disk_evicts_copies_before_it_fails(server, folder, monkeypatch):
    shard_cache = ShardCache(folder, PLENTY)
    wanted = shards(server, 3)
    kept = [shard_cache.fetch(url, **options) for url, options in wanted[:2]]
    for number, path in enumerate(kept):
        os.utime(path, (number, number))
    true_download = cache.download
    failures = [OSError(errno.ENOSPC, "No space left on device")]

    def download(*args):
        if failures:
            raise failures.pop()
        return true_download(*args)

    monkeypatch.setattr(cache, "download", download)
    assert shard_cache.fetch(wanted[2][0], **wanted[2][1]).exists()
    assert [path.exists() for path in kept] == [False, True]


def test_files_that_are_not_the_caches_own_are_never_deleted(server, folder):
    folder.mkdir(parents=True)
    for name in ("photos.tar", "notes.part", "a-5.tar"):
        (folder / name).write_bytes(bytes(5000))
    small = ShardCache(folder, 1500)
    for url, options in shards(server, 3):
        small.fetch(url, **options)
    assert len(copies(folder)) == 3  # one shard, and two that are not ours
    assert (folder / "notes.part").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_body_without_end_is_refused_and_leaves_nothing(server, folder, compressed):
    url = server.serve("/a.tar", endless(compressed))
    shard_cache = ShardCache(folder, 3_000_000)
    line = refused(shard_cache, url, version="1", error=UserError)
    assert line.startswith(f"{url}: sends more than the 0.003 GB of the cache: raise data.cache_gb")
    assert server.gets("/a.tar") == 1
    assert not copies(folder) and not list(folder.glob("*.part"))


def test_bodies_of_unknown_size_share_the_cache(server, folder, monkeypatch):
    """Where they do not fit beside each other, they are downloaded one after the other."""
    monkeypatch.setattr(cache, "GROWTH", 1000)
    data = [bytes([number]) * 40_000 for number in range(4)]
    urls = [
        server.serve(f"/{number}.tar", slow_unannounced(one, 10, 0.01))
        for number, one in enumerate(data)
    ]
    shard_cache, most, found = ShardCache(folder, 60_000), 0, []

    def fetch(url):
        with shard_cache.open(url, version="1") as copy:
            found.append(copy.read())

    threads = [threading.Thread(target=fetch, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, present(folder))
        time.sleep(0.002)
    assert sorted(found) == data
    assert most <= 60_000 + 4 * 8_000  # each is noticed after its next piece
