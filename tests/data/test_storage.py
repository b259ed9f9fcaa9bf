import os
import pickle

import pytest

from mae.data import storage
from mae.data.manifest import build_manifest
from mae.data.storage import ShardReader
from mae.errors import SampleError

CONTENTS = [bytes([number]) * (100 + 300 * number) for number in range(9)]


@pytest.fixture
def manifest(tmp_path, make_tar):
    """Nine samples of known bytes in three shards."""
    for shard in range(3):
        numbers = range(3 * shard, 3 * shard + 3)
        members = [(f"key-{number}.jpg", CONTENTS[number]) for number in numbers]
        make_tar(tmp_path / f"{shard}.tar", members)
    return build_manifest([f"{tmp_path}/*.tar"])


def refused(reader, sample):
    with pytest.raises(SampleError) as error:
        reader.read(sample)
    return str(error.value)


def open_files():
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


def test_bytes_are_those_packed(manifest):
    reader = ShardReader(manifest)
    for sample in [4, 0, 8, 3, 3, 7, 1, 6, 2, 5]:
        assert reader.read(sample) == CONTENTS[sample]


def test_an_empty_member_is_read(tmp_path, make_tar):
    path = make_tar(tmp_path / "a.tar", [("a.jpg", b""), ("b.jpg", b"x")])
    reader = ShardReader(build_manifest([str(path)]))
    assert [reader.read(0), reader.read(1)] == [b"", b"x"]


@pytest.mark.parametrize("limit", [1, 2])
def test_more_shards_than_may_be_open(manifest, monkeypatch, limit):
    monkeypatch.setattr(storage, "OPEN_SHARDS", limit)
    before = open_files()
    reader = ShardReader(manifest)
    for sample in [0, 3, 6, 1, 4, 7, 2, 5, 8, 0]:
        assert reader.read(sample) == CONTENTS[sample]
        assert open_files() <= before + limit


def test_files_are_closed_with_the_reader(manifest):
    before = open_files()
    reader = ShardReader(manifest)
    reader.read(0), reader.read(8)
    assert open_files() == before + 2
    del reader
    assert open_files() == before


def test_a_shard_cut_short_after_indexing_is_named(manifest):
    shard = manifest.shards[1]
    os.truncate(shard, int(manifest.offset[4]) + 10)
    reader = ShardReader(manifest)
    assert reader.read(3) == CONTENTS[3]
    assert refused(reader, 4) == (
        f"{shard}: key key-4: 10 of {len(CONTENTS[4])} bytes are there: "
        "the shard changed while in use"
    )
    assert refused(reader, 5).startswith(f"{shard}: key key-5: 0 of ")


def test_a_shard_deleted_after_indexing_is_named(manifest):
    manifest.shards[2].unlink()
    message = refused(ShardReader(manifest), 7)
    assert message == f"{manifest.shards[2]}: key key-7: cannot be read: No such file or directory"


def test_an_open_shard_outlives_its_deletion(manifest):
    reader = ShardReader(manifest)
    reader.read(6)
    manifest.shards[2].unlink()
    assert reader.read(7) == CONTENTS[7]


def test_a_copy_for_another_process_opens_its_own_files(manifest):
    reader = ShardReader(manifest)
    reader.read(0)
    before = open_files()
    copy = pickle.loads(pickle.dumps(reader))
    assert open_files() == before
    assert copy.read(0) == CONTENTS[0]
    del copy
    assert reader.read(1) == CONTENTS[1]
