"""Indexing divided among processes: the manifest of one, whatever happens meanwhile."""

import itertools
import os
from pathlib import Path

import pytest

from mae.base import divided_work as driver
from mae.base.errors import PartDone, UserError
from mae.base.portion import ALONE, Portion
from mae.data import indexing
from mae.data.indexing import index_shards, write_index
from mae.data.manifest import summary

JOIN = Portion(is_join=True)
TASKS = [Portion(number, 3, is_task=True) for number in range(3)]


@pytest.fixture
def shards(tmp_path, make_shards, make_tar):
    """Eleven samples in six shards: an empty one, labels that are names, members not read."""
    make_shards(tmp_path / "set", 6, shard_size=2)
    make_tar(tmp_path / "set" / "t-empty.tar", [])
    names = [("a.jpg", b"1"), ("a.cls", b"dog"), ("b.jpg", b"2"), ("b.cls", b"bird")]
    make_tar(tmp_path / "set" / "u-names.tar", names)
    others = [("x.heic", b"?"), ("y.jpg", b"bytes"), ("y.txt", b"?")]
    make_tar(tmp_path / "set" / "v-others.tar", others)
    (tmp_path / "set" / "classes.txt").write_text("cat\ndog\n")
    return f"{tmp_path}/set/*.tar"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "set" / "all.safetensors"


@pytest.fixture
def read(monkeypatch):
    """Names of the shards that are indexed, as a list that grows."""
    names, one = [], indexing.indexed_shard

    def spy(location, **options):
        names.append(Path(location).name)
        return one(location, **options)

    monkeypatch.setattr(indexing, "indexed_shard", spy)
    return names


def run_tasks(call, order=(2, 0, 1)):
    for number in order:
        with pytest.raises(PartDone, match="is done"):
            call(TASKS[number])


@pytest.mark.parametrize("most_parts", [4096, 4])
def test_tasks_in_any_order_and_their_join_write_the_file_of_one(
    shards, out, tmp_path, monkeypatch, most_parts
):
    monkeypatch.setattr(driver, "MOST_PARTS", most_parts)
    write_index([shards], out, "index")
    expected = out.read_bytes()
    for number, order in enumerate(itertools.permutations(range(3))):
        out.unlink(missing_ok=True)
        folder = tmp_path / f"index-{number}"
        run_tasks(
            lambda task, to=folder: write_index([shards], out, "index", to, portion=task), order
        )
        assert not out.exists()
        write_index([shards], out, "index", folder, portion=JOIN)
        assert out.read_bytes() == expected
    assert not list(out.parent.glob(".*.parts")) and not list(out.parent.glob("*.part"))


def test_without_a_file_the_join_has_the_manifest_of_one(shards, tmp_path):
    alone = index_shards([shards], "index")
    run_tasks(lambda task: index_shards([shards], "index", portion=task))
    joined = index_shards([shards], "index", portion=JOIN)
    assert list(summary(joined)) == list(summary(alone))
    assert joined.warnings() == alone.warnings() and len(alone.warnings()) == 2
    assert not list((tmp_path / "set" / ".mae-index").glob(".*"))


def test_parts_carry_the_indexes_where_no_folder_holds_them(shards, out, tmp_path):
    write_index([shards], out, "index")
    expected = out.read_bytes()
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "index"  # cannot be made
    run_tasks(lambda task: write_index([shards], out, "index", folder, portion=task))
    write_index([shards], out, "index", folder, portion=JOIN)
    assert out.read_bytes() == expected


def test_an_interrupted_one_reads_the_rest_and_what_has_changed(
    shards, out, tmp_path, read, make_tar, monkeypatch
):
    one = indexing.indexed_shard

    def stops(location, **options):
        if "u-names" in location:
            raise UserError("stopped")
        return one(location, **options)

    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "index"  # no cached index helps
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "indexed_shard", stops)
        with pytest.raises(UserError, match="stopped"):
            write_index([shards], out, "index", folder)
    make_tar(tmp_path / "set" / "shard-000001.tar", [("new.png", b"1234")])
    read.clear()
    write_index([shards], out, "index", folder, threads=1)
    assert sorted(read) == ["shard-000001.tar", "u-names.tar", "v-others.tar"]
    resumed = out.read_bytes()
    out.unlink()
    write_index([shards], out, "index", folder)
    assert out.read_bytes() == resumed and b"new" in resumed


def test_a_shard_that_changed_after_its_task_is_not_joined(shards, out, tmp_path):
    run_tasks(lambda task: write_index([shards], out, "index", portion=task))
    os.utime(tmp_path / "set" / "u-names.tar")
    with pytest.raises(UserError, match=r"1 of 6 parts are .*changed since.*--part 3/3, then"):
        write_index([shards], out, "index", portion=JOIN)
    run_tasks(lambda task: write_index([shards], out, "index", portion=task), [2])
    write_index([shards], out, "index", portion=JOIN)
    assert out.exists()


def test_what_no_manifest_can_list_is_refused_before_anything_is_read(shards, out, tmp_path, read):
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        write_index([shards], tmp_path / "m.json", "index")
    write_index([shards], out, "index")
    read.clear()
    with pytest.raises(UserError, match=r"index: shard named twice: .*shard-000000.tar"):
        write_index(
            [str(out), f"{tmp_path}/set/shard-000000.tar"], tmp_path / "m.safetensors", "index"
        )
    assert read == []


def test_one_process_leaves_no_folder(shards, tmp_path):
    index_shards([shards], "index", portion=ALONE)
    index_shards([shards], "index", tmp_path / "elsewhere", portion=ALONE)
    assert not [path for path in tmp_path.rglob(".*.parts")]
