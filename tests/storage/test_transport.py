import asyncio
import multiprocessing
import threading
import time

import psutil
import pytest

from mae.base.errors import UserError
from mae.storage import retry, transport
from tests.servers import body
from tests.storage.test_remote import DATA, download_in_child, fetched, refused

pytestmark = pytest.mark.usefixtures("fast_retries")


def test_forked_process_downloads(server):
    location = server.serve("/a.tar", body(DATA))
    assert fetched(location) == DATA
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=download_in_child, args=(location, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    try:
        assert [results.get(timeout=20) for _ in processes] == [True, True]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
        results.close()
        results.join_thread()
    assert fetched(location) == DATA


def test_many_threads_download(server):
    location = server.serve("/a.tar", body(DATA))
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetched(location) == DATA)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


def test_download_inside_a_running_event_loop(server):
    location = server.serve("/a.tar", body(DATA))

    async def main():
        return fetched(location)

    assert asyncio.run(main()) == DATA


def test_missing_package_is_named_with_its_install_command(monkeypatch):
    def absent(scheme, **options):
        raise ImportError("no such package")

    monkeypatch.setattr(transport.fsspec, "filesystem", absent)
    assert refused("s3://b/a.tar", error=UserError) == (
        "s3://…: needs s3fs: pip install 'maekit[s3]'"
    )
    assert refused("gs://b/a.tar", error=UserError) == (
        "gs://…: needs gcsfs: pip install 'maekit[gcs]'"
    )
    assert refused("sftp://b/a.tar", error=UserError) == "sftp://…: no such package"


def test_unknown_scheme_is_named():
    assert refused("xyz://b/a.tar", error=UserError) == "xyz://…: unknown kind of address"


def test_pipe_output_is_downloaded():
    assert fetched("pipe:printf 'a{1..2}*' | tr a b", allow_pipe=True) == b"b{1..2}*"


def test_failed_pipe_reports_stderr(tmp_path):
    count = tmp_path / "count"
    command = f"pipe:echo x >> {count}; echo body; echo first >&2; echo last words >&2; exit 3"
    line = refused(command, allow_pipe=True)
    assert line.endswith(": exit code 3: last words (tried 8 times)")
    assert count.read_text() == "x\n" * 8


def test_pipe_of_unexpected_length_fails():
    assert "ends at byte 3 of 4" in refused("pipe:printf abc", 4, allow_pipe=True)


def has_ended(pid):
    try:
        return psutil.Process(pid).status() == "zombie"
    except psutil.NoSuchProcess:
        return True


def test_stalled_pipe_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "STALL_TIMEOUT", 0.2)
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 1)
    pids = tmp_path / "pids"
    command = f"pipe:echo half; sleep 1000 & echo $! $$ > {pids}; wait"
    assert "only 5 bytes came for 0.2 s" in refused(command, allow_pipe=True)
    for pid in map(int, pids.read_text().split()):
        for _ in range(500):
            if has_ended(pid):
                break
            time.sleep(0.01)
        else:
            pytest.fail(f"{pid} still runs")
