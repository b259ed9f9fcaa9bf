import json
import os
import socket
from pathlib import Path

import boto3
import pytest

from mae.base.errors import StorageError, UserError
from mae.base.redaction import redacted
from mae.data.shards import expand_shards
from tests.servers import body, s3_server, status


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with six empty shards in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("train-000.tar", "train-001.tar", "train-002.tar", "val-000.tar"):
        Path(name).touch()
    Path("more").mkdir()
    Path("more/train-000.tar").touch()
    Path("odd[1].tar").touch()
    return tmp_path


def names(*patterns):
    return list(expand_shards(patterns))


def refused(*patterns, allow_pipe=False, error=UserError):
    with pytest.raises(error) as caught:
        expand_shards(patterns, "data.val", allow_pipe)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("data.val: ")
    return line


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["val-000.tar"], ["val-000.tar"]),
        (["train-{000..001}.tar"], ["train-000.tar", "train-001.tar"]),
        (["train-{001,000}.tar"], ["train-001.tar", "train-000.tar"]),
        (["{train,val}-000.tar"], ["train-000.tar", "val-000.tar"]),
        (["train-*.tar"], ["train-000.tar", "train-001.tar", "train-002.tar"]),
        (["train-00[12].tar"], ["train-001.tar", "train-002.tar"]),
        (["**/train-000.tar"], ["more/train-000.tar", "train-000.tar"]),
        (["val-000.tar", "train-00{0..1}.tar"], ["val-000.tar", "train-000.tar", "train-001.tar"]),
        (["odd[1].tar"], ["odd[1].tar"]),
    ],
)
def test_patterns_expand_in_the_order_written(folder, patterns, expected):
    assert names(*patterns) == expected


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert expand_shards(["~/val-*.tar"]) == (str(folder / "val-000.tar"),)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "no shards given"),
        (["nope.tar"], "no such shard: nope.tar"),
        (["train-{000..004}.tar"], "no such shard: train-003.tar and 1 more"),
        (["nope-*.tar"], "no such shard: nope-*.tar"),
        (["train-{000..001.tar"], "train-{000..001.tar: unmatched brace"),
        (["more"], "more is a folder with tars in it: write 'more/*.tar'"),
        (["train-000.tar", "./train-00*.tar"], "shard named twice: train-000.tar"),
        (["http://host/{0..1.tar?sig=SECRET"], "http://host/{0..1.tar: unmatched brace"),
        (["https://h/a.tar?sig=1", "https://h/a.tar?sig=2"], "shard named twice: https://h/a.tar"),
        (["https://u:p@h/a.tar", "https://h/a.tar"], "shard named twice: https://h/a.tar"),
        (["https://host/a-*.tar"], "https://host/a-*.tar: web servers do not list files"),
        (["gopher://host/*.tar"], "gopher://…: unknown kind of address"),
        (["pipe:cat train-000.tar"], "pipe:cat…338fcdeb: would run a command"),
        (["nope.json"], "no such file: nope.json"),
        (["nope"], "no such folder or shard: nope"),
        (["train-000.tar", "nope/{a,b}"], "no such folder or shard: nope/a and 1 more"),
        (["nope.safetensors"], "no such file: nope.safetensors"),
        (["nope.png"], "no such file: nope.png"),
    ],
)
def test_mistakes_are_named(folder, patterns, message):
    assert message in refused(*patterns)


def test_one_file_by_two_paths_is_named_twice(folder):
    assert "shard named twice" in refused("train-000.tar", str(folder / "train-000.tar"))
    Path("link.tar").symlink_to("train-000.tar")
    assert "shard named twice" in refused("train-000.tar", "link.tar")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("https://h/a.tar", ["https://h/a.tar"]),
        ("https://h/a-{0..2}.tar", ["https://h/a-0.tar", "https://h/a-1.tar", "https://h/a-2.tar"]),
        ("https://h/a-{0,1}.tar?sig=x", ["https://h/a-0.tar?sig=x", "https://h/a-1.tar?sig=x"]),
        ("https://h/get?id={7..8}", ["https://h/get?id=7", "https://h/get?id=8"]),
        ("s3://b/{a,c}/1.tar", ["s3://b/a/1.tar", "s3://b/c/1.tar"]),
    ],
)
def test_remote_patterns_expand(pattern, expected):
    assert names(pattern) == expected


def test_local_and_remote_shards_mix(folder):
    patterns = ("val-*.tar", "https://h/a.tar", "train-{000..001}.tar")
    assert names(*patterns) == [
        "val-000.tar",
        "https://h/a.tar",
        "train-000.tar",
        "train-001.tar",
    ]


def test_a_file_url_is_a_path(folder):
    assert names(f"file://{folder}/val-*.tar") == [f"{folder}/val-000.tar"]


def test_pipes_are_taken_as_they_are():
    pipe = "pipe:cat a-{0..3}.tar | grep *"
    assert expand_shards([pipe, "pipe:cat b"], allow_pipe=True) == (pipe, "pipe:cat b")
    assert "shard named twice" in refused(pipe, pipe, allow_pipe=True)


def test_remote_globs(monkeypatch):
    with s3_server(monkeypatch) as endpoint:
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="globs")
        for key in ("a/2.tar", "a/1.tar", "b/1.tar", "c [v2]/{x}.tar"):
            client.put_object(Bucket="globs", Key=key, Body=b"x")
        client.close()
        found = ["s3://globs/a/1.tar", "s3://globs/a/2.tar", "s3://globs/b/1.tar"]
        assert names("s3://globs/{a,b}/*.tar") == found
        assert "no such shard: s3://globs/c/*.tar" in refused("s3://globs/c/*.tar")
        assert names("s3://globs/c [v2]/{x}.tar") == ["s3://globs/c [v2]/{x}.tar"]
        index = json.dumps({"shardlist": [{"url": "1.tar"}, {"url": "../b/1.tar"}]})
        client = boto3.client("s3", endpoint_url=endpoint)
        client.put_object(Bucket="globs", Key="a/index.json", Body=index.encode())
        client.close()
        assert names("s3://globs/a/index.json") == [found[0], found[2]]


# wids indexes.


def wids(*urls, **more):
    shards = [{"url": url, "nsamples": 3, "filesize": 5} for url in urls]
    return json.dumps(
        {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards, **more}
    )


def test_a_wids_index_stands_for_its_shards(folder):
    urls = ["train-001.tar", "more/train-000.tar", str(folder / "val-000.tar"), "s3://b/a.tar"]
    Path("index.json").write_text(wids(*urls))
    assert names("index.json") == urls
    Path("more/index.json").write_text(wids("../train-002.tar", "train-000.tar"))
    assert names("more/index.json") == ["train-002.tar", "more/train-000.tar"]


def test_names_in_a_wids_index_are_no_patterns(folder):
    Path("index.json").write_text(wids("odd[1].tar"))
    assert names("index.json") == ["odd[1].tar"]
    Path("index.json").write_text(wids("train-{000..001}.tar"))
    assert "no such shard: train-{000..001}.tar" in refused("index.json")


def test_the_base_of_a_wids_index(folder):
    Path("index.json").write_text(wids("train-000.tar", base=str(folder / "more")))
    assert names("index.json") == [f"{folder}/more/train-000.tar"]
    Path("index.json").write_text(wids("a.tar", base="s3://bucket/data"))
    assert names("index.json") == ["s3://bucket/data/a.tar"]


def test_a_remote_wids_index(server):
    text = wids("a.tar", "sub/b.tar?x=1", "../c.tar", "/d.tar", "s3://b/e.tar")
    url = server.serve("/data/index.json", body(text.encode()))
    assert names(f"{url}?sig=SECRET") == [
        f"{server.url}/data/a.tar",
        f"{server.url}/data/sub/b.tar?x=1",
        f"{server.url}/c.tar",
        f"{server.url}/d.tar",
        "s3://b/e.tar",
    ]


@pytest.mark.parametrize("url", ["pipe:touch made", "file:///etc/passwd"])
def test_a_remote_wids_index_names_nothing_of_this_machine(server, folder, url):
    index = server.serve("/index.json", body(wids("a.tar", url).encode()))
    line = refused(index, allow_pipe=True)
    assert line.endswith(f"index.json: shardlist[1] is on this machine: {redacted(url)}")
    index = server.serve("/base.json", body(wids("passwd", base="/etc").encode()))
    assert "shardlist[0] is on this machine" in refused(index)


def test_pipes_in_a_wids_index_must_be_allowed(folder):
    Path("index.json").write_text(wids("pipe:cat a.tar"))
    assert f"{redacted('pipe:cat a.tar')}: would run a command" in refused("index.json")
    assert expand_shards(["index.json"], allow_pipe=True) == ("pipe:cat a.tar",)


def test_a_wids_index_that_does_not_come(server):
    line = refused(server.serve("/i.json", status(403)) + "?sig=SECRET", error=StorageError)
    assert line == f"data.val: {server.url}/i.json: HTTP 403 Forbidden (tried once)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", 'is not a wids index: no "shardlist" in it'),
        ("{}", 'is not a wids index: no "shardlist" in it'),
        ('{"shardlist": []}', 'is not a wids index: no "shardlist" in it'),
        ('{"shardlist": {"url": "a"}}', 'is not a wids index: no "shardlist" in it'),
        ('{"shardlist": [3]}', 'shardlist[0] has no "url"'),
        ('{"shardlist": [{"url": "train-000.tar"}, {}]}', 'shardlist[1] has no "url"'),
        ('{"shardlist": [{"url": 3}]}', 'shardlist[0] has no "url"'),
        ('{"shardlist": [{"url": "a\\u0000.tar"}]}', 'shardlist[0] has no "url" that is a name'),
        ('{"shardlist": [{"url": "a\\n.tar"}]}', 'shardlist[0] has no "url" that is a name'),
        ('{"shardlist": [{"url": "\\ud800.tar"}]}', 'shardlist[0] has no "url" that is a name'),
        ('{"shardlist": [{"url": NaN}]}', 'shardlist[0] has no "url"'),
        ('{"base": {}, "shardlist": [{"url": "a.tar"}]}', "no such shard: a.tar"),
        ('{"base": ["x"], "shardlist": [{"url": "a.tar"}]}', '"base" is no folder or address'),
        ('{"base": "\\u0000", "shardlist": [{"url": "a"}]}', '"base" is no folder or address'),
        ('{"shardlist": [{"url": "nope.tar"}]}', "no such shard: nope.tar"),
        ('{"shardlist": [{"url": "more"}]}', "more is a folder"),
        ('{"shardlist": [{"url": "val-000.tar"}, {"url": "./val-000.tar"}]}', "named twice"),
    ],
)
def test_malformed_wids_indexes_are_named(folder, text, message):
    Path("index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in refused("index.json")


@pytest.mark.parametrize("name", ["a.tar", "index.json"])
def test_what_is_no_file_is_refused_and_not_waited_for(folder, name):
    os.mkfifo(name)
    assert refused(name).endswith(f"{name} is a FIFO, not a file: save its content as a file first")
    Path(name).unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        assert f"{name} is a socket, not a file" in refused(name)
    assert "/dev/null is a device, not a file" in refused("/dev/null")


# Names with the letters of patterns.


@pytest.mark.parametrize(
    "name", ["[12]", "{a,b}", "a{", "*", "?", "a [v2] {1..3}", "\\{x\\}", "~nobody", "p::q", "%20"]
)
def test_folders_that_exist_are_taken_literally(name, folder):
    for number in range(3):
        path = folder / name / name / f"t-{number}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for inside in (f"{name}/{name}", f"{folder}/{name}/{name}"):
        expected = [f"{inside}/t-{number}.tar" for number in range(3)]
        assert names(f"{inside}/t-*.tar") == expected
        assert names(f"{inside}/t-[01].tar") == expected[:2]
        assert names(f"{inside}/t-{{0..2}}.tar") == expected
        assert names(f"{inside}/{{t-1,t-0}}.tar") == [expected[1], expected[0]]
        assert names(*expected) == expected
        assert f"no such shard: {inside}/u-*.tar" in refused(f"{inside}/u-*.tar")


def test_braces_before_a_folder_with_brackets(folder):
    for name in ("a", "b"):
        (folder / name / "[v2]").mkdir(parents=True)
        (folder / name / "[v2]" / "1.tar").touch()
    assert names("{a,b}/[v2]/*.tar") == ["a/[v2]/1.tar", "b/[v2]/1.tar"]
    assert names("*/[[]v2]/*.tar") == ["a/[v2]/1.tar", "b/[v2]/1.tar"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "my photos",
            "my photos is a folder of images, no shards: pack the images first: mae pack",
        ),
        ("my photos/*", "my photos is a folder of images, no shards"),
        ("my photos/cat/1.jpg", "my photos/cat/1.jpg is an image, no shard: pack the images first"),
        ("empty", "empty is a folder without .tar files"),
        ("empty/*", "no such shard: empty/*"),
    ],
)
def test_folder_of_images_is_to_be_packed(given, message, folder):
    for name in ("my photos/cat/1.jpg", "my photos/dog/2.PNG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "empty").mkdir()
    line = refused(given)
    assert message in line
    if given == "my photos":
        assert "mae pack 'my photos' 'my photos-shards'" in line
