import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mae.data import manifest as module
from mae.data.manifest import (
    EXTENSIONS,
    NO_LABEL,
    build_manifest,
    require_labels,
    scan,
    shard_index,
    split_name,
    summary,
)
from mae.errors import UserError


@pytest.fixture
def shard(tmp_path, make_tar):
    members = [("a.jpg", b"A" * 700), ("a.cls", b"3"), ("b.png", b"B" * 9), ("b.cls", b" 10\n")]
    return make_tar(tmp_path / "shard.tar", members)


@pytest.fixture
def scans(monkeypatch):
    """The paths that were scanned, in order."""
    paths = []
    monkeypatch.setattr(module, "scan", lambda path: paths.append(path) or scan(path))
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


# What is in a shard


def test_scan_finds_images_and_labels(shard):
    index = scan(shard)
    data = shard.read_bytes()
    contents = [data[o : o + s] for o, s in zip(index.offset, index.size, strict=True)]
    assert keys_of(index) == ["a", "b"]
    assert contents == [b"A" * 700, b"B" * 9]
    assert [EXTENSIONS[kind] for kind in index.kind] == ["jpg", "png"]
    assert index.label.tolist() == [3, 10]


def test_labels_are_optional_and_may_come_first(tmp_path, make_tar):
    members = [("a.cls", b"1"), ("b.jpg", b""), ("c.cls", b"2"), ("a.jpg", b""), ("c.json", b"{}")]
    index = scan(make_tar(tmp_path / "a.tar", members))
    assert keys_of(index) == ["b", "a"]
    assert index.label.tolist() == [NO_LABEL, 1]


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("A.JPG", "A", "jpg"),
        ("x/y/a.jpeg", "x/y/a", "jpeg"),
        ("x.y/z.1/a.png", "x.y/z.1/a", "png"),
        ("a.left.png", "a", "left.png"),
        ("README", "README", ""),
        ("x/.jpg", "x/.jpg", ""),
        ("._a.jpg", "._a.jpg", ""),
    ],
)
def test_names_split_as_webdataset_splits_them(name, key, extension):
    assert split_name(name) == (key, extension)


def test_uppercase_extensions_folders_and_odd_names(tmp_path, make_tar):
    members = [("x.y/A.JPG", b""), ("x.y/A.CLS", b"7"), ("写真.JPEG", b""), ("\udcff.png", b"")]
    index = scan(make_tar(tmp_path / "a.tar", members, tarfile.PAX_FORMAT))
    assert keys_of(index) == ["x.y/A", "写真", "\udcff"]
    assert index.label.tolist() == [7, NO_LABEL, NO_LABEL]


def test_equal_base_names_in_different_folders_are_different_keys(tmp_path, make_tar):
    index = scan(make_tar(tmp_path / "a.tar", [("x/a.jpg", b"1"), ("y/a.jpg", b"2")]))
    assert keys_of(index) == ["x/a", "y/a"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "no images: expected .jpg, .jpeg, .png, found no files"),
        ([("a.txt", b""), ("a.npy", b""), ("b", b"")], "found only no extension, .npy, .txt"),
        ([(f"a.{i}.jpg", b"") for i in range(9)], "found only .0.jpg, .1.jpg, .2.jpg, .3.jpg, "),
        ([("a.jpg", b""), ("a.png", b"")], "key a: more than one image (a.png)"),
        ([("a.jpg", b""), ("a.jpg", b"")], "key a: more than one image (a.jpg)"),
        ([("a.jpg", b""), ("a.JPG", b"")], "key a: more than one image (a.JPG)"),
        ([("a.cls", b"1"), ("a.jpg", b""), ("a.cls", b"2")], "key a: more than one label (a.cls)"),
        ([("a.jpg", b""), ("a.cls", b"cat")], "key a: .cls holds b'cat', not a number"),
        ([("a.jpg", b""), ("a.cls", b"")], "key a: .cls holds b'', not a number"),
        ([("a.jpg", b""), ("a.cls", b"1.5")], "key a: .cls holds b'1.5', not a number"),
        ([("a.jpg", b""), ("a.cls", b"-1")], "key a: .cls holds -1, not a class number"),
        ([("a.jpg", b""), ("a.cls", b"9" * 900)], f"key a: .cls holds {'9' * 21}, not a class"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, make_tar, members, message):
    path = make_tar(tmp_path / "a.tar", members)
    line = refused(scan, path)
    assert line.startswith(f"{path}: ") and message in line


def test_damage_is_named(shard):
    shard.write_bytes(shard.read_bytes()[:1024])
    assert refused(scan, shard).startswith(f"{shard}: is cut short")


@pytest.mark.parametrize("call", [scan, shard_index])
def test_a_shard_that_is_gone_is_named(tmp_path, call):
    path = tmp_path / "a.tar"
    assert refused(call, path) == f"{path}: cannot be read: No such file or directory"


# The cache


def test_the_cached_index_is_used(shard, scans):
    first = shard_index(shard)
    assert (shard.parent / ".mae-index" / "shard.tar.npz").exists()
    assert equal(shard_index(shard), first)
    assert scans == [shard]


def test_another_size_is_stale(tmp_path, make_tar, shard, scans):
    shard_index(shard)
    before = shard.stat()
    make_tar(shard, [("new.jpg", b"x" * 20_000)])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert keys_of(shard_index(shard)) == ["new"]
    assert scans == [shard, shard]


def test_another_time_is_stale(shard, scans):
    shard_index(shard)
    before = shard.stat()
    shard.write_bytes(shard.read_bytes().replace(b"b.png", b"c.png"))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert "bad checksum" in refused(shard_index, shard)
    assert scans == [shard, shard]


def test_a_damaged_cache_only_costs_time(shard, scans):
    expected = shard_index(shard)
    (cache,) = (shard.parent / ".mae-index").iterdir()
    whole = cache.read_bytes()
    np.save(shard.parent / "array.npy", np.zeros(3))
    damaged = [b"", b"\0" * 100, b"no zip", (shard.parent / "array.npy").read_bytes()]
    damaged += [whole[:end] for end in range(1, len(whole), 211)]
    damaged += [
        whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1 :] for i in range(0, len(whole), 13)
    ]
    for data in damaged:
        cache.write_bytes(data)
        assert equal(shard_index(shard), expected)
    assert len(scans) > 100  # a flipped byte that no check covers changes nothing
    assert equal(shard_index(shard), expected)


def test_a_folder_that_cannot_be_written_only_costs_time(shard, tmp_path, scans):
    (tmp_path / "file").touch()
    for index_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        assert keys_of(shard_index(shard, index_dir)) == ["a", "b"]
    assert len(scans) == 2
    assert (tmp_path / "file").stat().st_size == 0


def test_a_full_disk_leaves_nothing_behind(shard, monkeypatch):
    def savez(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    assert keys_of(shard_index(shard)) == ["a", "b"]
    assert list((shard.parent / ".mae-index").iterdir()) == []


def test_others_may_read_the_cache(shard):
    shard_index(shard)
    (shard.parent / "plain").touch()
    (cache,) = (shard.parent / ".mae-index").iterdir()
    assert cache.stat().st_mode == (shard.parent / "plain").stat().st_mode


def test_index_dir_is_made_and_used(shard, tmp_path, scans):
    index_dir = tmp_path / "some" / "where"
    for _ in range(2):
        shard_index(shard, index_dir)
    assert scans == [shard]
    assert len(list(index_dir.rglob("*.npz"))) == 1
    assert not (shard.parent / ".mae-index").exists()


def test_index_dir_keeps_equal_base_names_apart(tmp_path, make_tar, monkeypatch):
    shards = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shards.append(make_tar(tmp_path / folder / "a.tar", [(f"{folder}.jpg", b"1")]))
        os.utime(shards[-1], ns=(0, 0))
    for _ in range(2):
        found = [keys_of(shard_index(shard, tmp_path / "index")) for shard in shards]
        assert found == [["x"], ["y"]]
    monkeypatch.chdir(tmp_path / "x")  # the same name for both, too
    assert keys_of(shard_index(Path("a.tar"), tmp_path / "index")) == ["x"]
    monkeypatch.chdir(tmp_path / "y")
    assert keys_of(shard_index(Path("a.tar"), tmp_path / "index")) == ["y"]


# Many shards


def test_manifest_numbers_samples_shard_after_shard(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 7, shard_size=3)])
    assert len(manifest) == 7
    assert [path.name for path in manifest.shards] == [f"shard-00000{i}.tar" for i in range(3)]
    assert manifest.first.tolist() == [0, 3, 6]
    assert manifest.shard.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert manifest.label.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_name_tells_shard_and_key(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 7, shard_size=3)])
    assert manifest.name(0) == f"{tmp_path}/shard-000000.tar: key sample-00000"
    assert manifest.name(5) == f"{tmp_path}/shard-000001.tar: key sample-00005"
    assert manifest.name(6) == f"{tmp_path}/shard-000002.tar: key sample-00006"


def test_name_of_a_key_that_is_no_text(tmp_path, make_tar):
    path = make_tar(tmp_path / "a.tar", [("\udcff.jpg", b"")])
    assert build_manifest([str(path)]).name(0) == f"{path}: key \\xff"


def test_fingerprint_follows_the_samples_not_their_place(tmp_path, make_shards):
    def fingerprint(folder, **settings):
        return build_manifest([make_shards(tmp_path / folder, 6, **settings)]).fingerprint

    original = fingerprint("a")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    assert build_manifest([f"{tmp_path}/elsewhere/*.tar"]).fingerprint == original
    assert fingerprint("b", shard_size=3) != original
    assert fingerprint("c", size=40) != original
    assert fingerprint("d", labels=False) != original  # other positions in the tar


def test_fingerprint_follows_keys_and_order(tmp_path, make_tar):
    members = [("a.jpg", b"1"), ("b.jpg", b"2")]
    shards = []
    for name, content in (("x", members), ("y", [("a.jpg", b"1"), ("c.jpg", b"2")])):
        (tmp_path / name).mkdir()
        shards.append(str(make_tar(tmp_path / name / "s.tar", content)))
    x, y = (build_manifest([shard]).fingerprint for shard in shards)
    both, turned = (build_manifest(order).fingerprint for order in (shards, shards[::-1]))
    assert len({x, y, both, turned}) == 4


def test_require_labels_returns_them_or_names_the_first_without(tmp_path, make_shards, make_tar):
    labelled = make_shards(tmp_path / "labelled", 4)
    assert require_labels(build_manifest([labelled]), "--train").tolist() == [0, 1, 2, 0]
    bare = make_tar(tmp_path / "bare.tar", [("x.jpg", b""), ("y.jpg", b"")])
    manifest = build_manifest([labelled, str(bare)])
    assert refused(require_labels, manifest, "--train") == (
        f"--train: 2 of 6 samples have no label (.cls), first {bare}: key x"
    )


def test_mistakes_name_the_setting():
    assert refused(build_manifest, [], "data.val").startswith("data.val: no shards given")


def test_summary(tmp_path, make_shards):
    lines = dict(summary(build_manifest([make_shards(tmp_path / "a", 10)])))
    assert lines["shards"] == "2"
    assert lines["images"] == "10: 10 jpg"
    assert lines["labels"] == "10 samples, 3 classes"
    bare = make_shards(tmp_path / "b", 4, labels=False, extension="png")
    lines = dict(summary(build_manifest([bare])))
    assert lines["images"] == "4: 4 png" and lines["labels"] == "none"


def test_real_shards(shared_data, tmp_path):
    manifest = build_manifest([f"{shared_data}/cifar10/test-*.tar"], index_dir=tmp_path)
    assert len(manifest) == 10_000
    assert np.bincount(require_labels(manifest, "--test")).tolist() == [1000] * 10
