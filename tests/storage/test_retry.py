import errno
import io
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from functools import partial

import psutil
import pytest

from mae.base.errors import StorageError
from mae.data.indexing import build_manifest
from mae.storage import remote, retry
from mae.storage.cache import ShardCache
from mae.storage.remote import download, stat
from tests.servers import body, slow, status
from tests.storage.test_remote import DATA, fetched, refused
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("fast_retries")

PATIENCE = 10
"""seconds; a download here takes 40"""
PREPARE = """
import sys, time
from pathlib import Path
import numpy as np
from mae.data.indexing import build_manifest
from mae.data.order import Order
from mae.data.prefetching import prefetch_shards
from mae.storage.cache import ShardCache
folder, *urls = sys.argv[1:]
cache = ShardCache(Path(folder, "cache"), 10**9, allow_pipe=True)
"""
INDEXING = PREPARE + "build_manifest(urls, cache=cache, index_dir=Path(folder, 'another'))"
FETCHING = f"""{PREPARE}
manifest = build_manifest(urls, cache=cache, index_dir=Path(folder, "index"))
order = Order(0, manifest.dataset_counts(), mode="window", window=1)
stream = prefetch_shards([range(len(manifest))] * 2, manifest, order, cache, ahead=1)
next(stream)
while len(list(Path(folder, "cache").glob("*.part"))) < 2:
    time.sleep(0.01)
"""


# Processes that end while downloads run.


def serve_slowly(server, tmp_path, make_shards):
    """URLs of two shards that take 40 s each, indexed in `tmp_path/index`."""
    make_shards(tmp_path / "local", 8, shard_size=4)
    urls, contents = [], []
    for number, path in enumerate(sorted((tmp_path / "local").glob("*.tar"))):
        contents.append(path.read_bytes())
        urls.append(server.serve(f"/{number}.tar", body(contents[-1], etag="1")))
    cache = ShardCache(tmp_path / "first", 10**9)
    build_manifest(urls, index_dir=tmp_path / "index", cache=cache)
    for number, data in enumerate(contents):
        server.serve(f"/{number}.tar", slow(data, 40, 1.0, etag="1"))
    server.requests.clear()
    return urls


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        # A shell ignores SIGINT in background jobs, and Python would inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    "script", [INDEXING, f"{FETCHING}\ntime.sleep(60)"], ids=["indexing", "fetching ahead"]
)
def test_interrupted_process_does_not_wait_for_downloads(server, tmp_path, make_shards, script):
    urls = serve_slowly(server, tmp_path, make_shards)
    with start(script, tmp_path, *urls) as process:
        try:
            wait_for(lambda: server.gets("/0.tar") and server.gets("/1.tar"))
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == -signal.SIGINT
        finally:
            process.kill()


@pytest.mark.parametrize(
    "script", [INDEXING, f"{FETCHING}\nraise SystemExit(1)"], ids=["indexing", "fetching ahead"]
)
def test_failed_process_does_not_wait_for_downloads(server, tmp_path, make_shards, script):
    urls = serve_slowly(server, tmp_path, make_shards)
    if script is INDEXING:

        def answer(handler):
            wait_for(lambda: server.gets("/0.tar") and server.gets("/1.tar"))
            status(404)(handler)

        urls.insert(0, server.serve("/bad.tar", answer))
    with start(script, tmp_path, *urls) as process:
        try:
            assert process.wait(3 * PATIENCE) == 1  # the start of the interpreter included
        finally:
            process.kill()


def has_ended(pid):
    try:
        return psutil.Process(pid).status() == "zombie"
    except psutil.NoSuchProcess:
        return True


def test_pipe_command_is_killed_with_its_process(tmp_path):
    pid = tmp_path / "pid"
    with start(INDEXING, tmp_path, f"pipe:echo $$ > {pid}; exec sleep 60") as process:
        try:
            wait_for(lambda: pid.exists() and pid.read_text().strip())
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
            wait_for(lambda: has_ended(int(pid.read_text())))
        finally:
            process.kill()


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_transient_errors_use_all_attempts(server, code):
    location = server.serve("/a.tar", status(code))
    assert f"{location}: HTTP {code} " in (line := refused(location))
    assert line.endswith("(tried 8 times)")
    assert server.gets("/a.tar") == 8


def test_retry_delays_grow(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(retry, "FIRST_DELAY", 1.0)
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    refused(server.serve("/a.tar", status(503)))
    assert len(pauses) == 7
    for number, pause in enumerate(pauses):
        assert min(60, 2**number) <= pause <= min(60, 1.5 * 2**number)
    assert sum(pauses) > 120  # long enough for a server to restart


def test_retry_delays_have_jitter(monkeypatch):
    """Clients that failed at one time must not all retry at one time."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 1.0)
    assert len({retry._retry_delay(3) for _ in range(10)}) > 1


IN_AN_HOUR = formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize(
    ("code", "asked", "waited"),
    [
        (429, "7", 7),
        (503, "7", 7),
        (503, "3600", 120),
        pytest.param(503, IN_AN_HOUR, 120, id="503-in an hour-120"),
        (503, "Mon, 01 Jan 2024 00:00:00 GMT", 0),
        (503, "soon", 0),
        (503, "-7", 0),
        (500, "7", 0),
    ],
)
def test_retry_after_header_is_respected(server, monkeypatch, code, asked, waited):
    pauses = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    location = server.serve("/a.tar", status(code, retry_after=asked), body(DATA))
    assert fetched(location) == DATA
    (pause,) = pauses
    assert pause == waited if waited else pause < 0.01
    assert stat(server.serve("/b.tar", status(code, retry_after=asked), body(DATA))).size
    assert not waited or waited in pauses[1:]


def test_stuck_library_call_is_abandoned(monkeypatch):
    monkeypatch.setattr(retry, "STALL_TIMEOUT", 0.1)
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    release = threading.Event()
    late: list[BaseException] = []

    def stuck(location, attempt):
        attempt.write(b"half")
        release.wait()
        try:
            attempt.write(b"far too late")
        except ConnectionAbortedError as error:
            late.append(error)
            raise

    monkeypatch.setattr(remote, "receive_file", stuck)
    target = io.BytesIO()
    with pytest.raises(StorageError, match=r"only 4 bytes came for 0.1 s \(tried 2 times\)"):
        download("s3://bucket/a.tar", target)
    release.set()
    for _ in range(500):
        if len(late) == 2:
            break
        time.sleep(0.01)
    assert len(late) == 2
    assert target.getvalue() == b"half"


def test_unwritable_target_is_not_retried(server):
    location = server.serve("/a.tar", body(DATA))

    class Full(io.BytesIO):
        def write(self, data, /):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        download(location, Full())
    assert server.gets("/a.tar") == 1
