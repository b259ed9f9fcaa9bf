import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from mae.base.errors import UserError
from mae.data.index_formats import write_wds2idx, write_wids
from mae.data.shards import expand_shards
from tests.mounts import run_with_mounts


@pytest.fixture
def shard(tmp_path, make_tar):
    """Three samples of two, one and two files, and files that belong to none."""
    members = [
        ("a/0.cls", b"3"),
        ("a/0.JPG", b"x" * 600),
        ("README", b"no extension"),
        ("1.seg.png", b"y" * 512),
        (".hidden", b"z"),
        ("2.jpg", b""),
        ("2.txt", b"words"),
    ]
    return make_tar(tmp_path / "a.tar", members)


def test_the_dali_index_is_that_of_wds2idx(shard, tmp_path):
    """Each header is a block of 512 bytes; contents are padded to whole blocks."""
    out = tmp_path / "a.idx"
    assert write_wds2idx(shard, out) == 3
    assert out.read_text() == (
        "v1.2 3\n"
        "cls 512 1 a/0.cls JPG 1536 600 a/0.JPG\n"
        "seg.png 4096 512 1.seg.png\n"
        "jpg 6144 0 2.jpg txt 6656 5 2.txt\n"
    )


def test_offsets_are_where_the_contents_start(shard, tmp_path):
    out = tmp_path / "a.idx"
    write_wds2idx(shard, out)
    data = shard.read_bytes()
    with tarfile.open(shard) as tar:
        for line in out.read_text().splitlines()[1:]:
            words = line.split(" ")
            for start in range(0, len(words), 4):
                _, offset, size, name = words[start : start + 4]
                assert int(offset) % 512 == 0  # DALI insists
                content = tar.extractfile(name)
                assert content is not None
                assert data[int(offset) :][: int(size)] == content.read()


def test_long_names_shift_the_contents(tmp_path, make_tar):
    name = "k" * 150
    shard = make_tar(tmp_path / "a.tar", [(f"{name}.jpg", b"x")])
    write_wds2idx(shard, tmp_path / "a.idx")
    # A header and a block for the name come before the header of the file.
    assert (tmp_path / "a.idx").read_text() == f"v1.2 1\njpg 1536 1 {name}.jpg\n"


def test_a_key_that_comes_again_is_another_sample(tmp_path, make_tar):
    shard = make_tar(tmp_path / "a.tar", [("a.jpg", b""), ("b.jpg", b""), ("a.cls", b"")])
    assert write_wds2idx(shard, tmp_path / "a.idx") == 3


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a b.jpg", b"x")], "a.tar: a b.jpg: DALI's index cannot hold names with blanks"),
        ([("a.jp\ng", b"x")], "DALI's index cannot hold names with blanks"),
        ([("README", b"x")], "a.tar: no samples to index"),
    ],
)
def test_what_dali_cannot_read_is_named(tmp_path, make_tar, members, message):
    shard = make_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError) as error:
        write_wds2idx(shard, tmp_path / "a.idx")
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_damaged_shards_are_named(shard, tmp_path):
    with shard.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"a.tar: is cut short"):
        write_wds2idx(shard, tmp_path / "a.idx")


def test_the_wids_index(tmp_path, make_tar):
    (tmp_path / "shards").mkdir()
    shards = [make_tar(tmp_path / "shards" / f"{n}.tar", [("a.jpg", b"x")]) for n in range(2)]
    out = tmp_path / "index.json"
    write_wids(shards, [1, 7], out)
    assert json.loads(out.read_text()) == {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": [
            {"url": "shards/0.tar", "nsamples": 1, "filesize": 10240},
            {"url": "shards/1.tar", "nsamples": 7, "filesize": 10240},
        ],
    }


def test_the_wids_index_is_read_back(tmp_path, make_tar, monkeypatch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "indexes").mkdir()
    shard = make_tar(tmp_path / "shards" / "0.tar", [("a.jpg", b"x")])
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "indexes" / "i.json", Path("i.json"), Path("shards/i.json")):
        write_wids([shard], [1], out)
        (location,) = expand_shards([str(out)])
        assert Path(location).samefile(shard)


def test_wids_itself_opens_the_index(tmp_path, make_tar):
    wids = pytest.importorskip("wids", reason="webdataset no longer ships wids")
    shard = make_tar(tmp_path / "0.tar", [("a.txt", b"one"), ("b.txt", b"two")])
    write_wids([shard], [2], tmp_path / "i.json")
    samples = wids.ShardListDataset(str(tmp_path / "i.json"), transformations=[])
    assert [samples[n]["__key__"] for n in range(len(samples))] == ["a", "b"]


def test_what_cannot_be_written_is_named(shard, tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "a.idx"
    with pytest.raises(UserError, match=r"a.idx: cannot be written: (File exists|Not a dir)"):
        write_wds2idx(shard, out)
    with pytest.raises(UserError, match=r"nope.tar: cannot be read: No such file"):
        write_wids([tmp_path / "nope.tar"], [1], tmp_path / "i.json")


@pytest.mark.parametrize("options", [["--wds2idx"], ["--wids", "shards/wids.json"]])
def test_read_only_storage_is_one_line(options, make_shards, tmp_path):
    make_shards(tmp_path / "shards", 4)
    mounts = f"mount --bind {tmp_path}/shards {tmp_path}/shards\n"
    mounts += f"mount -o remount,ro,bind {tmp_path}/shards"
    words = [sys.executable, "-m", "mae", "index", f"{tmp_path}/shards/shard-000000.tar", *options]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    done = run_with_mounts(mounts, words, cwd=tmp_path, env=env)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mae: ") and line.endswith("cannot be written: Read-only file system")
