import asyncio
import errno
import io
import multiprocessing
import os
import pickle
import threading
import time
from email.utils import formatdate

import boto3
import fsspec
import psutil
import pytest

from mae.base.errors import StorageError, UserError
from mae.storage import files, retry, transport
from mae.storage.files import canonical_address, download, glob_remote, is_remote, redacted, stat
from tests.servers import (
    body,
    chunked,
    redirect,
    s3_server,
    slow,
    stall,
    status,
    unannounced,
)

DATA = os.urandom(200_000)


pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture(scope="module")
def s3():
    """A client of an S3 server that holds `bucket`."""
    with pytest.MonkeyPatch.context() as monkeypatch, s3_server(monkeypatch) as endpoint:
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="bucket")
        yield client
        client.close()


def fetched(location, size=None, allow_pipe=False):
    target = io.BytesIO(b"what was there before" * 100_000)
    count = download(location, target, size, allow_pipe)
    assert count == len(target.getvalue())
    return target.getvalue()


def refused(location, size=None, allow_pipe=False, error=StorageError):
    with pytest.raises(error) as caught:
        fetched(location, size, allow_pipe)
    (line,) = str(caught.value).splitlines()
    return line


# Addresses


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://host/a.tar", True),
        ("s3://bucket/a.tar", True),
        ("GS://bucket/a.tar", True),
        ("pipe:cat a.tar", True),
        ("a.tar", False),
        ("/data/a.tar", False),
        ("odd:name.tar", False),
        ("./pipe:x", False),
    ],
)
def test_is_remote(location, expected):
    assert is_remote(location) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/a.tar?X-Amz-Signature=abc&b=c", "https://host/a.tar"),
        ("https://host/a.tar?TOKEN", "https://host/a.tar"),
        ("https://host/a.tar#part", "https://host/a.tar"),
        ("https://me:secret@host:80/a.tar", "https://host:80/a.tar"),
        ("s3://key:secret@bucket/a.tar", "s3://bucket/a.tar"),
        ("s3://bucket/a.tar?versionId=1", "s3://bucket/a.tar"),
        ("s3://bucket/a-??.tar", "s3://bucket/a-??.tar"),
        ("hf://datasets/who/what@main/a.tar", "hf://datasets/who/what@main/a.tar"),
        ("pipe:curl -s 'https://u:p@h/a?s=1' | cat", "pipe:curl -s 'https://h/a' | cat"),
        ("pipe:curl -H 'Authorization: Bearer abc' x", "pipe:curl -H 'Authorization: …' x"),
        ("Cannot get https://h/a?s=1, really", "Cannot get https://h/a really"),
        ("/data/what?=a@b.tar", "/data/what?=a@b.tar"),
    ],
)
def test_secrets_are_redacted(text, expected):
    assert redacted(text) == expected


def test_canonical_address_is_without_signature():
    today = "https://u:p@h/a.tar?id=7&X-Amz-Date=1&X-Amz-Signature=abc"
    assert canonical_address(today) == canonical_address(
        "https://h/a.tar?id=7&X-Amz-Date=2&X-Amz-Signature=x"
    )
    assert canonical_address(today) != canonical_address(today.replace("id=7", "id=8"))
    assert canonical_address("https://h/a.tar?sig=1&se=2") == canonical_address("https://h/a.tar")
    assert canonical_address("s3://b/a?versionId=1") != canonical_address("s3://b/a?versionId=2")
    assert canonical_address("pipe:cat ?sig=1") == "pipe:cat ?sig=1"


# HTTP


@pytest.mark.parametrize(
    "behaviour", [body(DATA), chunked(DATA), unannounced(DATA), slow(DATA, 5, 0.01)]
)
def test_http_body_is_downloaded_whole(server, behaviour):
    location = server.serve("/a.tar", behaviour)
    assert fetched(location) == DATA
    assert fetched(location, len(DATA)) == DATA
    assert server.gets("/a.tar") == 2


def test_empty_body_is_downloaded(server):
    assert fetched(server.serve("/a.tar", body(b"")), 0) == b""


def test_redirect_is_followed(server):
    server.serve("/there.tar", body(DATA))
    assert fetched(server.serve("/a.tar", redirect("/there.tar"))) == DATA


def test_queries_are_sent(server):
    fetched(server.serve("/a.tar", body(DATA)) + "?X-Amz-Signature=a%2Fb&x=1")
    assert server.queries[-1] == "X-Amz-Signature=a%2Fb&x=1"


@pytest.mark.parametrize(
    ("code", "words"),
    [(400, "Bad Request"), (401, "Unauthorized"), (403, "Forbidden"), (410, "Gone")],
)
def test_client_errors_are_not_retried(server, code, words):
    location = server.serve("/a.tar", status(code))
    assert refused(location) == f"{location}: HTTP {code} {words} (tried once)"
    assert server.gets("/a.tar") == 1


def test_missing_file_is_not_retried(server):
    location = f"{server.url}/nope.tar"
    assert refused(location) == f"{location}: no such file (tried once)"
    assert server.gets("/nope.tar") == 1


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


@pytest.mark.parametrize(
    "behaviour",
    [
        status(503),
        body(DATA[:1000], length=len(DATA)),
        chunked(DATA[:5000], cut=True),
        stall(DATA),
    ],
    ids=["503", "cut", "cut in chunks", "stalled"],
)
def test_download_after_a_transient_failure_is_complete(server, behaviour, monkeypatch):
    monkeypatch.setattr(retry, "STALL_TIMEOUT", 0.4)
    location = server.serve("/a.tar", behaviour, behaviour, body(DATA))
    assert fetched(location) == DATA
    assert server.gets("/a.tar") == 3


@pytest.mark.parametrize(
    "behaviour",
    [
        body(DATA[:1000], length=len(DATA)),
        chunked(DATA[:5000], cut=True),
        unannounced(DATA[:5000]),
        body(DATA[:5000]),
        body(DATA + b"x"),
        body(DATA, length=5000),
        unannounced(DATA + b"x"),
        body(b"<html>Please log in</html>"),
    ],
    ids=["cut", "chunks", "no length", "short", "long", "wrong length", "more", "web page"],
)
def test_unexpected_length_is_an_error(server, behaviour):
    location = server.serve("/a.tar", behaviour)
    line = refused(location, len(DATA))
    assert line.startswith(f"{location}: ")
    assert line.endswith("(tried 8 times)")


def test_length_errors_name_both_lengths(server):
    location = server.serve("/a.tar", body(DATA[:5000]))
    assert "has 5000 bytes, expected 200000" in refused(location, len(DATA))
    location = server.serve("/b.tar", unannounced(DATA[:5000]))
    assert "ends at byte 5000 of 200000" in refused(location, len(DATA))


def test_stalled_transfer_fails(server, monkeypatch):
    monkeypatch.setattr(retry, "STALL_TIMEOUT", 0.2)
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    location = server.serve("/a.tar", stall(DATA))
    start = time.monotonic()
    assert refused(location).endswith("(tried 2 times)")
    assert time.monotonic() - start < 5


def test_slow_steady_transfer_does_not_stall(server, monkeypatch):
    monkeypatch.setattr(retry, "STALL_TIMEOUT", 0.6)
    assert fetched(server.serve("/a.tar", slow(DATA, 12, 0.1))) == DATA
    assert server.gets("/a.tar") == 1


def test_refused_connection_is_retried(server):
    line = refused("http://127.0.0.1:1/a.tar")
    assert "127.0.0.1:1" in line
    assert line.endswith("(tried 8 times)")


@pytest.mark.parametrize("code", [403, 404, 500])
def test_messages_contain_no_signatures(server, code):
    location = server.serve("/a.tar", status(code)) + "?X-Amz-Signature=SECRET"
    line = refused(location.replace("://", "://me:SECRET@"))
    assert line.startswith(f"{server.url}/a.tar: ")
    assert "SECRET" not in line
    with pytest.raises(StorageError) as error:
        stat(location)
    assert "SECRET" not in str(error.value)


def test_stat_size_and_version(server):
    location = server.serve("/a.tar", body(DATA, etag="one"))
    assert stat(location) == (len(DATA), '"one"')
    server.serve("/a.tar", body(DATA, etag="two"))
    assert stat(location) == (len(DATA), '"two"')
    assert stat(server.serve("/b.tar", unannounced(DATA))) == (None, "")
    assert stat("pipe:cat a.tar") == (None, "")


def test_stat_of_a_missing_file(server):
    with pytest.raises(StorageError, match=r"nope.tar: HTTP 404 Not Found \(tried once\)"):
        stat(f"{server.url}/nope.tar")
    location = server.serve("/a.tar", status(503))
    with pytest.raises(StorageError, match=r"HTTP 503 .* \(tried 8 times\)"):
        stat(location)


def test_glob_over_http_is_refused(server):
    with pytest.raises(UserError, match=r"/a-\*.tar: web servers do not list files: write {"):
        glob_remote(f"{server.url}/a-*.tar?sig=SECRET")


# All backends


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

    monkeypatch.setattr(files, "receive_file", stuck)
    target = io.BytesIO()
    with pytest.raises(StorageError, match=r"nothing came for 0.1 s \(tried 2 times\)"):
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


def _download_in_child(location, results):
    results.put(fetched(location) == DATA)


def test_forked_process_downloads(server):
    location = server.serve("/a.tar", body(DATA))
    assert fetched(location) == DATA
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_download_in_child, args=(location, results)) for _ in range(2)
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
    assert refused("s3://b/a.tar", error=UserError) == ("s3://…: needs s3fs: pip install 'mae[s3]'")
    assert refused("gs://b/a.tar", error=UserError) == (
        "gs://…: needs gcsfs: pip install 'mae[gcs]'"
    )
    assert refused("sftp://b/a.tar", error=UserError) == "sftp://…: no such package"


def test_unknown_scheme_is_named():
    assert refused("xyz://b/a.tar", error=UserError) == "xyz://…: unknown kind of address"


def test_storage_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(StorageError("https://h/a: no such file")))
    assert str(error) == "https://h/a: no such file"


# Pipes


def test_pipe_output_is_downloaded():
    assert fetched("pipe:printf 'a{1..2}*' | tr a b", allow_pipe=True) == b"b{1..2}*"


def test_pipe_needs_permission(tmp_path):
    line = refused(f"pipe:touch {tmp_path}/made", error=UserError)
    assert line.startswith(f"pipe:touch {tmp_path}/made: would run a command")
    assert line.endswith("data.allow_pipe=true allows it")
    assert not list(tmp_path.iterdir())


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
    assert "nothing came for 0.2 s" in refused(command, allow_pipe=True)
    for pid in map(int, pids.read_text().split()):
        for _ in range(500):
            if has_ended(pid):
                break
            time.sleep(0.01)
        else:
            pytest.fail(f"{pid} still runs")


# S3


def test_s3_object_is_downloaded_whole(s3, monkeypatch):
    monkeypatch.setattr(transport, "CHUNK", 60_000)  # several requests
    s3.put_object(Bucket="bucket", Key="a.tar", Body=DATA)
    assert fetched("s3://bucket/a.tar") == DATA
    assert fetched("S3://bucket/a.tar", len(DATA)) == DATA


def test_empty_s3_object_is_downloaded(s3):
    s3.put_object(Bucket="bucket", Key="empty.tar", Body=b"")
    assert fetched("s3://bucket/empty.tar") == b""


def test_s3_object_changed_midway_is_an_error(s3):
    s3.put_object(Bucket="bucket", Key="b.tar", Body=DATA)
    assert glob_remote("s3://bucket/b*") == ["s3://bucket/b.tar"]
    before = stat("s3://bucket/b.tar")
    assert before.size == len(DATA)
    assert before == stat("s3://bucket/b.tar")
    s3.put_object(Bucket="bucket", Key="b.tar", Body=DATA[::-1])
    assert stat("s3://bucket/b.tar").version != before.version
    assert fetched("s3://bucket/b.tar") == DATA[::-1]
    s3.put_object(Bucket="bucket", Key="b.tar", Body=DATA[:10])
    assert fetched("s3://bucket/b.tar") == DATA[:10]


@pytest.mark.parametrize("location", ["s3://bucket/nope.tar", "s3://no-bucket/a.tar"])
def test_missing_s3_object(s3, location):
    line = refused(location)
    assert line.startswith(f"{location}: ")
    assert line.endswith("(tried once)")
    with pytest.raises(StorageError, match="tried once"):
        stat(location)


def test_s3_without_credentials_is_not_retried(s3, tmp_path, monkeypatch):
    s3.put_object(Bucket="bucket", Key="a.tar", Body=DATA)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    file_systems = fsspec.get_filesystem_class("s3")
    file_systems.clear_instance_cache()
    try:
        assert refused("s3://bucket/a.tar") == (
            "s3://bucket/a.tar: no credentials: set them, or FSSPEC_S3_ANON=true for a public "
            "bucket (tried once)"
        )
        with pytest.raises(StorageError, match=r"FSSPEC_S3_ANON=true.*tried once"):
            stat("s3://bucket/a.tar")
    finally:
        file_systems.clear_instance_cache()


def test_s3_glob(s3):
    for key in ("train/2.tar", "train/1.tar", "train/1.json", "other/1.tar"):
        s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    found = ["s3://bucket/train/1.tar", "s3://bucket/train/2.tar"]
    assert glob_remote("s3://bucket/train/*.tar") == found
    assert glob_remote("s3://bucket/train/?.tar") == found
    assert glob_remote("s3://bucket/nope/*.tar") == []
    s3.put_object(Bucket="bucket", Key="train/3.tar", Body=b"x")
    assert glob_remote("s3://bucket/train/*.tar") == [*found, "s3://bucket/train/3.tar"]


def test_stat_of_a_folder_is_refused(s3):
    s3.put_object(Bucket="bucket", Key="folder/1.tar", Body=b"x")
    with pytest.raises(UserError, match=r"s3://bucket/folder: is a folder: write .*/\*.tar"):
        stat("s3://bucket/folder")


def test_s3_in_a_forked_process(s3):
    s3.put_object(Bucket="bucket", Key="a.tar", Body=DATA)
    assert fetched("s3://bucket/a.tar") == DATA
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_download_in_child, args=("s3://bucket/a.tar", results))
    process.start()
    try:
        assert results.get(timeout=30)
    finally:
        process.join(10)
        process.kill()
        results.close()
        results.join_thread()
    assert fetched("s3://bucket/a.tar") == DATA
