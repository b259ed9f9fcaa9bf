import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mae.base.errors import StorageError, UserError
from mae.data import index as module
from mae.data.index import shard_index
from mae.data.scan import scan
from mae.storage.cache import ShardCache
from tests.servers import body, status, unannounced


@pytest.fixture
def shard(tmp_path, make_tar):
    members = [("a.jpg", b"A" * 700), ("a.cls", b"3"), ("b.png", b"B" * 9), ("b.cls", b" 10\n")]
    return make_tar(tmp_path / "shard.tar", members)


@pytest.fixture
def scans(monkeypatch):
    """The paths that were scanned, in order."""
    paths = []
    monkeypatch.setattr(module, "scan", lambda path, name=None: paths.append(path) or scan(path))
    return paths


def keys_of(index):
    return index.keys.decode("utf-8", "surrogateescape").split("\0")


def equal(one, other):
    return all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(one, other, strict=True))


def refused(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    (line,) = str(error.value).splitlines()
    return line


def test_the_cached_index_is_used(shard, scans):
    first = shard_index(str(shard))
    assert (shard.parent / ".mae-index" / "shard.tar.safetensors").exists()
    assert equal(shard_index(str(shard)), first)
    assert scans == [shard]


def test_another_size_is_stale(tmp_path, make_tar, shard, scans):
    shard_index(str(shard))
    before = shard.stat()
    make_tar(shard, [("new.jpg", b"x" * 20_000)])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert keys_of(shard_index(str(shard))) == ["new"]
    assert scans == [shard, shard]


def test_another_time_is_stale(shard, scans):
    shard_index(str(shard))
    before = shard.stat()
    shard.write_bytes(shard.read_bytes().replace(b"b.png", b"c.png"))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert "bad checksum" in refused(shard_index, str(shard))
    assert scans == [shard, shard]


def test_damage_done_by_copying_is_not_indexed_as_right(shard, tmp_path):
    """Other file times make the index stale, but its checksum still reveals the damage."""
    shard_index(str(shard))
    copy = Path(shutil.copytree(shard.parent, tmp_path / "copy"), "shard.tar")
    copy.write_bytes(shard.read_bytes().replace(b"AAAA", b"AAAB", 1))
    index = copy.parent / ".mae-index" / "shard.tar.safetensors"
    for _ in range(2):
        os.utime(copy, ns=(0, 0))
        assert refused(shard_index, str(copy)) == (
            f"{copy}: not the bytes that were indexed (sha256): damaged, or changed on purpose "
            f"(then delete its index {index})"
        )
    index.unlink()
    assert equal(shard_index(str(copy)), scan(copy))


def test_a_shard_whose_index_is_of_no_use_has_nothing_to_be_compared_with(shard):
    shard_index(str(shard))
    (index,) = (shard.parent / ".mae-index").iterdir()
    _resaved(lambda arrays, about: about.update(sha256="0" * 64))(index)
    os.utime(shard, ns=(0, 0))
    assert equal(shard_index(str(shard)), scan(shard))


def test_an_index_copied_along_does_not_hold_for_a_copy_of_another_time(shard, tmp_path, scans):
    shard_index(str(shard))
    copy = Path(shutil.copytree(shard.parent, tmp_path / "copy", symlinks=True), "shard.tar")
    os.utime(copy, ns=(0, 0))
    assert keys_of(shard_index(str(copy))) == ["a", "b"]
    assert scans == [shard, copy]
    for _ in range(2):
        shard_index(str(copy))
    assert scans == [shard, copy]


def test_the_index_of_another_shard_of_that_name_is_not_used(tmp_path, make_tar, scans):
    """Even where size and time are the same: another folder is another file."""
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shard = make_tar(tmp_path / folder / "a.tar", [(f"{folder}.jpg", b"1")])
        os.utime(shard, ns=(0, 0))
        assert keys_of(shard_index(str(shard))) == [folder]
    assert len(scans) == 2


def test_an_empty_shard_has_an_index_too(tmp_path, make_tar, scans):
    path = make_tar(tmp_path / "a.tar", [])
    for _ in range(2):
        assert len(shard_index(str(path)).offset) == 0
    assert scans == [path]


def _resaved(change):
    """A cached index with a change to what was stored in it, else as safetensors writes it."""

    def damaged(file):
        with module.safe_open(file, framework="np") as stored:
            about = stored.metadata()
        arrays = load_file(file)
        change(arrays, about)
        save_file(arrays, file, about)
        return file.read_bytes()

    return damaged


DAMAGES = {
    "nothing": lambda file: b"",
    "zeros": lambda file: bytes(100),
    "text": lambda file: b"no index",
    "an endless header": lambda file: b"\xff" * 8 + b"{}",
    "cut in the header": lambda file: file.read_bytes()[:40],
    "cut in the columns": lambda file: file.read_bytes()[:-1],
    "longer": lambda file: file.read_bytes() + b"0",
    "another format": _resaved(lambda arrays, about: about.update(format="1")),
    "no format": _resaved(lambda arrays, about: about.pop("format")),
    "no column": _resaved(lambda arrays, about: arrays.pop("crc")),
    "another checksum": _resaved(lambda arrays, about: arrays["crc"].__iadd__(1)),
    "another offset": _resaved(lambda arrays, about: arrays["offset"].__iadd__(512)),
    "another size of the shard": _resaved(lambda arrays, about: about.update(bytes="1")),
    "another sha256": _resaved(lambda arrays, about: about.update(sha256="0" * 64)),
    "another time": _resaved(lambda arrays, about: about.update(version="1")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_cache_is_made_again(shard, scans, kind):
    expected = shard_index(str(shard))
    (cache,) = (shard.parent / ".mae-index").iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(DAMAGES[kind](cache))
    assert equal(shard_index(str(shard)), expected)
    assert scans == [shard, shard]
    assert sorted(cache.read_bytes()) == sorted(whole)  # its metadata in any order
    assert equal(shard_index(str(shard)), expected)
    assert scans == [shard, shard]


def test_no_flipped_bit_of_the_cache_is_believed(shard, scans):
    expected = shard_index(str(shard))
    (cache,) = (shard.parent / ".mae-index").iterdir()
    whole = cache.read_bytes()
    for at in range(0, len(whole), 3):
        cache.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        assert equal(shard_index(str(shard)), expected)


def _forged(change):
    """A cached index with other columns or members, and the digest that belongs to them."""

    def forge(file):
        with module.safe_open(file, framework="np") as stored:
            about = stored.metadata()
        arrays = dict(load_file(file))
        change(arrays, about)
        about["digest"] = module._digest(arrays, about)
        save_file(arrays, file, about)

    return forge


def _columns(**values):
    types = {name: np.dtype(module.COLUMNS[name]) for name in values}
    return lambda arrays, about: arrays.update(
        {name: np.asarray(value).astype(types[name]) for name, value in values.items()}
    )


FORGERIES = {
    "negative offset": _columns(offset=[-512, 512]),
    "most negative offset": _columns(offset=[-(2**63), 512]),
    "offset beyond the file": _columns(offset=[512, 1 << 40]),
    "largest offset": _columns(offset=[512, 2**63 - 1]),
    "size beyond the file": _columns(size=[2**32 - 1, 9]),
    "a column too short": _columns(offset=[512]),
    "a column too long": _columns(crc=[1, 2, 3]),
    "a column of two axes": _columns(crc=[[1], [2]]),
    "no rows": _columns(offset=[], size=[], crc=[], label=[], kind=[]),
    "an unknown format": _columns(kind=[0, 200]),
    "a name of a label that is not there": _columns(label=[-2, 0]),
    "NaN": lambda arrays, about: arrays.update(offset=np.array([np.nan, 512.0])),
    "wider integers": lambda arrays, about: arrays.update(label=arrays["label"].astype("i8")),
    "more keys": lambda arrays, about: arrays.update(keys=np.frombuffer(b"a\0b\0c", np.uint8)),
    "no keys": lambda arrays, about: arrays.update(keys=np.zeros(0, np.uint8)),
    "members that are no JSON": lambda arrays, about: about.update(members="["),
    "members of other types": lambda arrays, about: about.update(members='[[], [[3, "x"]], []]'),
    "counts that are none": lambda arrays, about: about.update(members='[[], [], [["a", {}]]]'),
    "endless members": lambda arrays, about: about.update(members="[" * 100_000),
    "a size that is no number": lambda arrays, about: about.update(bytes="10240 "),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_index_is_not_believed(shard, scans, kind):
    """By a stranger who knows the format: the shard is read again."""
    expected = shard_index(str(shard))
    (cache,) = (shard.parent / ".mae-index").iterdir()
    _forged(FORGERIES[kind])(cache)
    assert equal(shard_index(str(shard)), expected)
    assert scans == [shard, shard]


def test_a_fifo_in_place_of_the_index_is_not_waited_for(shard, scans):
    (shard.parent / ".mae-index").mkdir()
    os.mkfifo(shard.parent / ".mae-index" / "shard.tar.safetensors")
    assert keys_of(shard_index(str(shard))) == ["a", "b"]


def test_a_folder_that_cannot_be_written_only_costs_time(shard, tmp_path, scans):
    (tmp_path / "file").touch()
    for index_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        assert keys_of(shard_index(str(shard), index_dir)) == ["a", "b"]
    assert len(scans) == 2
    assert (tmp_path / "file").stat().st_size == 0


def test_a_folder_that_may_not_be_written_only_costs_time(shard, scans):
    (shard.parent / ".mae-index").mkdir(mode=0o500)
    if os.access(shard.parent / ".mae-index", os.W_OK):
        pytest.skip("this user may write everywhere")
    for _ in range(2):
        assert keys_of(shard_index(str(shard))) == ["a", "b"]
    assert len(scans) == 2


def test_a_full_disk_leaves_nothing_behind(shard, monkeypatch):
    def write(path, data):
        with path.open("wb") as file:
            file.write(data[:99])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    assert keys_of(shard_index(str(shard))) == ["a", "b"]
    assert list((shard.parent / ".mae-index").iterdir()) == []


def test_others_may_read_the_cache(shard):
    shard_index(str(shard))
    (shard.parent / "plain").touch()
    (cache,) = (shard.parent / ".mae-index").iterdir()
    assert cache.stat().st_mode == (shard.parent / "plain").stat().st_mode


def test_index_dir_is_made_and_used(shard, tmp_path, scans):
    index_dir = tmp_path / "some" / "where"
    for _ in range(2):
        shard_index(str(shard), index_dir)
    assert scans == [shard]
    assert len(list(index_dir.rglob("*.safetensors"))) == 1
    assert not (shard.parent / ".mae-index").exists()


def test_index_dir_keeps_equal_base_names_apart(tmp_path, make_tar, monkeypatch):
    shards = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shards.append(make_tar(tmp_path / folder / "a.tar", [(f"{folder}.jpg", b"1")]))
        os.utime(shards[-1], ns=(0, 0))
    for _ in range(2):
        found = [keys_of(shard_index(str(shard), tmp_path / "index")) for shard in shards]
        assert found == [["x"], ["y"]]
    monkeypatch.chdir(tmp_path / "x")  # the same name for both, too
    assert keys_of(shard_index("a.tar", tmp_path / "index")) == ["x"]
    monkeypatch.chdir(tmp_path / "y")
    assert keys_of(shard_index("a.tar", tmp_path / "index")) == ["y"]


def test_a_shard_that_is_gone_is_named(tmp_path):
    path = tmp_path / "a.tar"
    assert refused(shard_index, str(path)) == f"{path}: cannot be read: No such file or directory"


# Remote shards


@pytest.fixture
def index_dir(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def shard_cache(tmp_path):
    return ShardCache(tmp_path / "cache", 10**9)


def publish(server, shard, etag="1"):
    """Put a shard and its index on the server; the shard's URL."""
    shard_index(str(shard))
    index = shard.parent / ".mae-index" / "shard.tar.safetensors"
    server.serve("/data/.mae-index/shard.tar.safetensors", body(index.read_bytes()))
    return server.serve("/data/shard.tar", body(shard.read_bytes(), etag=etag))


def test_a_remote_shard_is_fetched_scanned_and_kept(server, shard, index_dir, shard_cache):
    url = server.serve("/data/shard.tar", body(shard.read_bytes(), etag="1"))
    for _ in range(2):
        assert equal(shard_index(url, index_dir, shard_cache), scan(shard))
    assert server.gets("/data/shard.tar") == 1
    (kept,) = index_dir.rglob("*.safetensors")
    assert kept.name.startswith("shard.tar")


def test_a_copy_may_be_given_up_while_it_is_scanned(
    server, shard, index_dir, shard_cache, monkeypatch
):
    """Shards indexed at the same time evict each other from a small cache."""

    def scan_late(path, name):
        for copy in shard_cache.folder.glob("*.tar"):
            copy.unlink()
        return scan(path, name)

    monkeypatch.setattr(module, "scan", scan_late)
    url = server.serve("/data/shard.tar", body(shard.read_bytes(), etag="1"))
    assert keys_of(shard_index(url, index_dir, shard_cache)) == ["a", "b"]
    assert list(shard_cache.folder.glob("*.tar")) == []


def test_another_size_on_the_server_is_stale(
    server, shard, tmp_path, make_tar, index_dir, shard_cache
):
    url = server.serve("/data/shard.tar", body(shard.read_bytes(), etag="1"))
    shard_index(url, index_dir, shard_cache)
    other = make_tar(tmp_path / "other.tar", [("c.jpg", b"C" * 20_000), ("c.cls", b"3")])
    server.serve("/data/shard.tar", body(other.read_bytes(), etag="2"))
    assert keys_of(shard_index(url, index_dir, shard_cache)) == ["c"]


def test_another_version_on_the_server_is_read_again(server, shard, index_dir, shard_cache, scans):
    """The same bytes under a new ETag are scanned again, without an error."""
    url = server.serve("/data/shard.tar", body(shard.read_bytes(), etag="1"))
    expected = shard_index(url, index_dir, shard_cache)
    server.serve("/data/shard.tar", body(shard.read_bytes(), etag="2"))
    for _ in range(2):
        assert equal(shard_index(url, index_dir, shard_cache), expected)
    assert len(scans) == 2


def test_other_bytes_of_the_same_size_on_the_server_are_refused(
    server, shard, tmp_path, make_tar, index_dir, shard_cache
):
    url = server.serve("/data/shard.tar", body(shard.read_bytes(), etag="1"))
    shard_index(url, index_dir, shard_cache)
    (index,) = index_dir.rglob("*.safetensors")
    other = make_tar(tmp_path / "other.tar", [("c.jpg", b"C" * 700), ("c.cls", b"3")])
    server.serve("/data/shard.tar", body(other.read_bytes(), etag="2"))
    assert refused(shard_index, f"{url}?sig=abc", index_dir, shard_cache) == (
        f"{url}: not the bytes that were indexed (sha256): damaged, or changed on purpose (then "
        f"delete its index {index})"
    )
    index.unlink()
    assert keys_of(shard_index(url, index_dir, shard_cache)) == ["c"]


def test_a_shard_published_anew_with_its_index_is_taken(
    server, shard, tmp_path, make_tar, index_dir
):
    url = publish(server, shard)
    shard_index(url, index_dir)
    make_tar(shard, [("c.jpg", b"C" * 700), ("c.cls", b"3")])
    (shard.parent / ".mae-index" / "shard.tar.safetensors").unlink()
    assert publish(server, shard, etag="2") == url
    assert keys_of(shard_index(url, index_dir)) == ["c"]


def test_an_index_beside_a_remote_shard_saves_its_download(server, shard, index_dir):
    """So a person who copies a folder of shards to a server copies the indexes, too."""
    url = publish(server, shard)
    for _ in range(2):
        assert equal(shard_index(url, index_dir), scan(shard))
    assert server.gets("/data/shard.tar") == 0
    assert server.gets("/data/.mae-index/shard.tar.safetensors") == 1


def test_a_signed_address_signs_for_the_index_too(server, shard, index_dir):
    url = publish(server, shard)
    assert keys_of(shard_index(f"{url}?X-Amz-Signature=abc", index_dir)) == ["a", "b"]
    assert set(server.queries) == {"X-Amz-Signature=abc"}
    assert not [path for path in index_dir.rglob("*") if "abc" in path.name]


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: b"<html>", lambda d: d[:-3] + b"???"]
)
def test_a_damaged_index_beside_a_remote_shard_is_not_used(
    server, shard, index_dir, shard_cache, damage
):
    url = publish(server, shard)
    index = (shard.parent / ".mae-index" / "shard.tar.safetensors").read_bytes()
    server.serve("/data/.mae-index/shard.tar.safetensors", body(damage(index)))
    assert equal(shard_index(url, index_dir, shard_cache), scan(shard))
    assert server.gets("/data/shard.tar") == 1


def test_the_index_beside_a_remote_shard_of_another_size_is_not_used(
    server, shard, tmp_path, make_tar, index_dir, shard_cache
):
    publish(server, shard)
    other = make_tar(tmp_path / "other.tar", [("c.jpg", b"C" * 20_000)])
    url = server.serve("/data/shard.tar", body(other.read_bytes(), etag="2"))
    assert keys_of(shard_index(url, index_dir, shard_cache)) == ["c"]
    assert server.gets("/data/shard.tar") == 1


def test_an_index_is_not_trusted_where_the_server_sends_no_size(
    server, shard, index_dir, shard_cache
):
    publish(server, shard)
    url = server.serve("/data/shard.tar", unannounced(shard.read_bytes()))
    assert keys_of(shard_index(url, index_dir, shard_cache)) == ["a", "b"]
    assert server.gets("/data/.mae-index/shard.tar.safetensors") == 0


def test_equal_base_names_on_a_server_are_kept_apart(
    server, shard, tmp_path, make_tar, index_dir, shard_cache
):
    other = make_tar(tmp_path / "other.tar", [("c.jpg", b"C" * 700), ("c.cls", b"3")])
    one = server.serve("/x/a.tar", body(shard.read_bytes(), etag="1"))
    two = server.serve("/y/a.tar", body(other.read_bytes(), etag="1"))
    assert keys_of(shard_index(one, index_dir, shard_cache)) == ["a", "b"]
    assert keys_of(shard_index(two, index_dir, shard_cache)) == ["c"]


def test_shards_that_differ_in_their_query_only(
    server, shard, tmp_path, make_tar, index_dir, shard_cache
):
    """A server without versions, the same size: the address alone says which it is."""
    other = make_tar(tmp_path / "other.tar", [("c.jpg", b"C" * 700), ("c.cls", b"3")])

    def answer(handler):
        body((shard if handler.path.endswith("id=1") else other).read_bytes())(handler)

    url = server.serve("/get.tar", answer)
    for _ in range(2):
        assert keys_of(shard_index(f"{url}?id=1", index_dir, shard_cache)) == ["a", "b"]
        assert keys_of(shard_index(f"{url}?id=2", index_dir, shard_cache)) == ["c"]


def test_damage_of_a_remote_shard_names_its_address(server, shard, index_dir, shard_cache):
    url = server.serve("/data/shard.tar", body(shard.read_bytes()[:1024], etag="1"))
    assert refused(shard_index, f"{url}?sig=abc", index_dir, shard_cache).startswith(
        f"{url}: is cut short"
    )


def test_a_remote_shard_needs_a_cache(server, shard, index_dir):
    url = server.serve("/data/shard.tar", body(shard.read_bytes(), etag="1"))
    assert refused(shard_index, f"{url}?sig=abc", index_dir) == f"{url}: remote shards need a cache"


def test_a_server_that_refuses_is_no_fault_of_the_shard(server, index_dir, shard_cache):
    url = server.serve("/data/shard.tar", status(403))
    with pytest.raises(StorageError) as error:
        shard_index(url, index_dir, shard_cache)
    assert str(error.value).startswith(f"{url}: ")
