import io
import multiprocessing
import os
import pickle
import time

import boto3
import fsspec
import pytest

from mae.base.errors import StorageError, UserError
from mae.storage import retry, transport
from mae.storage.remote import canonical_address, download, glob_remote, is_remote, stat
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


def download_in_child(location, results):
    results.put(fetched(location) == DATA)


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


def test_a_transfer_that_drips_is_given_up(server, monkeypatch):
    monkeypatch.setattr(retry, "STALL_TIMEOUT", 0.3)
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    url = server.serve("/a.tar", slow(DATA[:200], pieces=200, pause=0.02))
    assert refused(url).startswith(f"{url}: only ") and server.gets("/a.tar") == 2
    assert "bytes came for 0.3 s (tried 2 times)" in refused(url)


def test_endless_redirects_end(server, monkeypatch):
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    url = server.serve("/a.tar", redirect("/a.tar"))
    assert refused(url).startswith(f"{url}: ")
    assert server.gets("/a.tar") < 50


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


def test_storage_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(StorageError("https://h/a: no such file")))
    assert str(error) == "https://h/a: no such file"


# Pipes


def test_pipe_needs_permission(tmp_path):
    line = refused(f"pipe:touch {tmp_path}/made", error=UserError)
    assert line.startswith("pipe:touch…") and ": would run a command on this machine" in line
    assert line.endswith("or --allow-pipe, allows it")
    assert not list(tmp_path.iterdir())


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
    process = context.Process(target=download_in_child, args=("s3://bucket/a.tar", results))
    process.start()
    try:
        assert results.get(timeout=30)
    finally:
        process.join(10)
        process.kill()
        results.close()
        results.join_thread()
    assert fetched("s3://bucket/a.tar") == DATA
