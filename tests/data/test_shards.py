from pathlib import Path

import pytest

from mae.data.shards import expand_shards
from mae.errors import UserError


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
    return [str(path) for path in expand_shards(patterns)]


def refused(*patterns):
    with pytest.raises(UserError) as error:
        expand_shards(patterns, "data.val")
    (line,) = str(error.value).splitlines()
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
    assert expand_shards(["~/val-*.tar"]) == (folder / "val-000.tar",)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "no shards given"),
        (["nope.tar"], "no such shard: nope.tar"),
        (["train-{000..004}.tar"], "no such shard: train-003.tar and 1 more"),
        (["nope-*.tar"], "no such shard: nope-*.tar"),
        (["train-{000..001.tar"], "train-{000..001.tar: a brace has no partner"),
        (["more"], "more is a folder: write more/*.tar"),
        (["train-000.tar", "./train-00*.tar"], "shard named twice: train-000.tar"),
        (["http://host/a.tar"], "http://host/a.tar: only local shards"),
        (["s3://bucket/train-{000..001}.tar"], "only local shards"),
        (["GS://bucket/a.tar"], "only local shards"),
        (["pipe:cat train-000.tar"], "only local shards"),
    ],
)
def test_mistakes_are_named(folder, patterns, message):
    assert message in refused(*patterns)


def test_one_file_by_two_paths_is_named_twice(folder):
    assert "shard named twice" in refused("train-000.tar", str(folder / "train-000.tar"))
    Path("link.tar").symlink_to("train-000.tar")
    assert "shard named twice" in refused("train-000.tar", "link.tar")
