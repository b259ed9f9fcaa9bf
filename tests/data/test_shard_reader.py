import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import SampleError, StorageError
from mae.data import shard_reader
from mae.data.indexing import build_manifest
from mae.data.shard_reader import ShardReader
from mae.storage.cache import ShardCache
from tests.data.test_scan import DAMAGES
from tests.servers import body, status

CONTENTS = [bytes([number]) * (100 + 300 * number) for number in range(9)]


@pytest.fixture
def manifest(tmp_path, make_tar):
    """Nine samples of known bytes in three shards."""
    for shard in range(3):
        numbers = range(3 * shard, 3 * shard + 3)
        members = [(f"key-{number}.jpg", CONTENTS[number]) for number in numbers]
        make_tar(tmp_path / f"{shard}.tar", members)
    return build_manifest([f"{tmp_path}/*.tar"])


def refused(reader, sample, error=SampleError):
    with pytest.raises(error) as raised:
        reader.read(sample)
    assert type(raised.value) is error
    (line,) = str(raised.value).splitlines()
    return line


def change(path, at, data):
    """Overwrite bytes of a shard in place, unnoticed: size and times stay as they were."""
    before = os.stat(path)  # noqa: PTH116
    with Path(path).open("r+b") as file:
        file.seek(int(at))
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


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
    monkeypatch.setattr(shard_reader, "OPEN_SHARDS", limit)
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
        f"{shard}: key key-4: 10 of {len(CONTENTS[4])} bytes are there: the shard was cut"
    )
    assert refused(reader, 5).startswith(f"{shard}: key key-5: 0 of ")


@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_named(manifest, bit):
    flipped = bytes([CONTENTS[4][0] ^ 1 << bit])
    change(manifest.shards[1], manifest.offset[4] + 200, flipped)
    again = build_manifest([str(Path(manifest.shards[0]).parent / "*.tar")])
    assert again.fingerprint == manifest.fingerprint  # its index counts as fresh
    reader = ShardReader(again)
    assert refused(reader, 4) == (
        f"{manifest.shards[1]}: key key-4: not the bytes that were indexed (checksum)"
    )
    assert [reader.read(n) for n in (3, 5)] == [CONTENTS[3], CONTENTS[5]]


def test_a_half_zeroed_jpeg_that_decoders_accept_is_named(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 3, size=(240, 320))])
    start, size = int(manifest.offset[1]), int(manifest.size[1])
    whole = bytes(ShardReader(manifest).read(1))
    half = whole[: size // 2] + bytes(size - size // 2 - 2) + whole[-2:]
    pixels = np.asarray(Image.open(io.BytesIO(half)))  # no complaint
    assert (pixels[-50:] != np.asarray(Image.open(io.BytesIO(whole)))[-50:]).mean() > 0.9
    change(manifest.shards[0], start, half)
    reader = ShardReader(manifest)
    assert "key sample-00001: not the bytes that were indexed" in refused(reader, 1)
    reader.read(0), reader.read(2)


@pytest.mark.parametrize("kind", ["flipped content", *DAMAGES])
def test_damage_after_indexing_touches_no_other_samples(tmp_path, make_tar, kind):
    """The reader names exactly the samples whose bytes changed, and delivers all others."""
    contents = [bytes([number]) * 300 for number in range(1, 33)]
    path = tmp_path / "samples.tar"
    make_tar(path, [(f"key-{n:02d}.jpg", data) for n, data in enumerate(contents)])
    manifest = build_manifest([str(path)])
    whole = path.read_bytes()
    inside = int(manifest.offset[7]) + 100
    flip = {"flipped content": lambda data: data[:inside] + b"?" + data[inside + 1 :]}
    damaged = (DAMAGES | flip)[kind](whole)
    path.write_bytes(damaged)

    reader, named = ShardReader(manifest), []
    for sample, content in enumerate(contents):
        try:
            assert reader.read(sample) == content
        except SampleError as error:
            assert str(error).startswith(f"{path}: key key-{sample:02d}: ")
            named.append(sample)
    assert named == [
        sample
        for sample, start in enumerate(manifest.offset.tolist())
        if damaged[start : start + 300] != whole[start : start + 300]
    ]
    everything = kind in ("gzip", "web page", "nothing")
    assert (len(named) == 32) == everything and (named != []) == (kind not in HARMLESS)


HARMLESS = (
    "hole over a header",  # contents lie where the index says
    "flipped name",
    "flipped checksum",
    "flipped size",
    "end blocks missing",
    "garbage appended",
    "two tars",
)


def test_a_shard_replaced_while_open_is_read_as_it_was_or_named(manifest, tmp_path, make_tar):
    reader = ShardReader(manifest)
    assert reader.read(3) == CONTENTS[3]
    other = make_tar(tmp_path / "other", [(f"key-{n}.jpg", b"?" * 400) for n in range(9)])
    other.rename(manifest.shards[1])
    assert reader.read(4) == CONTENTS[4]  # the old file is still open
    change(manifest.shards[0], 0, bytes(5000))
    assert "key key-1: not the bytes that were indexed" in refused(reader, 1)
    assert "key key-5: " in refused(ShardReader(manifest), 5)


def test_bytes_put_right_again_are_read_again(manifest):
    reader = ShardReader(manifest)
    whole = Path(manifest.shards[1]).read_bytes()
    os.truncate(manifest.shards[1], 1000)
    refused(reader, 4)
    restored = Path(f"{manifest.shards[1]}.new")
    restored.write_bytes(whole)
    restored.rename(manifest.shards[1])
    assert reader.read(4) == CONTENTS[4]


def test_a_shard_deleted_after_indexing_is_no_sample_s_fault(manifest):
    Path(manifest.shards[2]).unlink()
    message = refused(ShardReader(manifest), 7, StorageError)
    assert message == f"{manifest.shards[2]}: key key-7: cannot be read: No such file or directory"


def test_a_shard_that_cannot_be_opened_whole_is_a_fault_of_storage(manifest):
    Path(manifest.shards[2]).unlink()
    with (
        pytest.raises(StorageError, match=r"\.tar: cannot be read: No such file"),
        ShardReader(manifest).open_shard(2),
    ):
        pass


def test_an_open_shard_outlives_its_deletion(manifest):
    reader = ShardReader(manifest)
    reader.read(6)
    Path(manifest.shards[2]).unlink()
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


# Remote shards


@pytest.fixture
def remote(server, manifest, tmp_path):
    """The same nine samples on a server, and an empty cache."""
    urls = [
        server.serve(f"/{Path(shard).name}", body(Path(shard).read_bytes(), etag="1"))
        for shard in manifest.shards
    ]
    cache = ShardCache(tmp_path / "cache", 10**9)
    found = build_manifest(urls, "data.train", tmp_path / "index", cache)
    for copy in cache.folder.glob("*.tar"):
        copy.unlink()
    server.requests.clear()
    return found, cache


def test_remote_samples_come_through_the_cache(remote, server):
    manifest, cache = remote
    reader = ShardReader(manifest, cache)
    for sample in [4, 0, 8, 3, 3, 7, 1, 6, 2, 5]:
        assert reader.read(sample) == CONTENTS[sample]
    assert sorted(server.requests) == [f"GET /{shard}.tar" for shard in range(3)]


def test_a_damaged_copy_is_fetched_once_more(remote, server):
    manifest, cache = remote
    reader = ShardReader(manifest, cache)
    reader.read(3)
    (copy,) = cache.folder.glob("*.tar")
    change(copy, manifest.offset[4], b"?")
    assert reader.read(4) == CONTENTS[4]
    assert server.gets("/1.tar") == 2


def test_a_cut_copy_is_fetched_once_more(remote, server):
    manifest, cache = remote
    reader = ShardReader(manifest, cache)
    reader.read(3)
    (copy,) = cache.folder.glob("*.tar")
    os.truncate(copy, 1000)
    assert reader.read(4) == CONTENTS[4]
    assert server.gets("/1.tar") == 2


def test_a_shard_that_changed_on_the_server_is_no_sample_s_fault(remote, server):
    manifest, cache = remote
    changed = bytearray(Path(cache.folder.parent / "1.tar").read_bytes())
    changed[int(manifest.offset[4])] ^= 1
    server.serve("/1.tar", body(bytes(changed), etag="2"))
    message = refused(ShardReader(manifest, cache), 4, StorageError)
    assert message.startswith(f"{manifest.shards[1]}: its sha256 is ")


def test_a_server_that_refuses_is_no_sample_s_fault(remote, server):
    manifest, cache = remote
    server.serve("/1.tar", status(404))
    message = refused(ShardReader(manifest, cache), 4, StorageError)
    assert message.startswith(f"{manifest.shards[1]}: ")


def test_without_a_cache_remote_samples_are_not_read(remote):
    manifest, _ = remote
    message = refused(ShardReader(manifest), 4, StorageError)
    assert message == f"{manifest.shards[1]}: remote shards need a cache"


def test_evicted_copies_do_not_keep_their_disk_space(remote):
    """A file without a name is closed before another shard is opened."""
    manifest, cache = remote
    reader = ShardReader(manifest, cache)
    before = open_files()
    for sample in (0, 3, 6, 1, 4, 7):
        assert reader.read(sample) == CONTENTS[sample]
        for copy in cache.folder.glob("*.tar"):
            copy.unlink()
    assert open_files() <= before + 3


def test_a_copy_for_another_process_brings_the_cache(remote):
    manifest, cache = remote
    reader = pickle.loads(pickle.dumps(ShardReader(manifest, cache)))
    assert reader.read(8) == CONTENTS[8]
