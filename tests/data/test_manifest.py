import shutil
from pathlib import Path

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.data.index import _store
from mae.data.indexing import build_manifest
from mae.data.joined_manifests import merge, select
from mae.data.manifest import summary
from mae.data.required_labels import require_labels
from mae.data.shard_index import ShardIndex


def refused(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    (line,) = str(error.value).splitlines()
    return line


def test_manifest_numbers_samples_shard_after_shard(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 7, shard_size=3)])
    assert len(manifest) == 7
    assert [Path(shard).name for shard in manifest.shards] == [
        f"shard-00000{i}.tar" for i in range(3)
    ]
    assert manifest.first.tolist() == [0, 3, 6]
    samples = [manifest.samples_of(shard) for shard in range(3)]
    assert samples == [range(3), range(3, 6), range(6, 7)]
    assert manifest.names_in(2) == [manifest.key(6)]
    assert manifest.shard_of(np.arange(7)).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert manifest.label.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_name_holds_shard_and_key(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 7, shard_size=3)])
    assert manifest.name(0) == f"{tmp_path}/shard-000000.tar: key sample-00000"
    assert manifest.name(5) == f"{tmp_path}/shard-000001.tar: key sample-00005"
    assert manifest.name(6) == f"{tmp_path}/shard-000002.tar: key sample-00006"


def test_keys_of_several_samples_come_in_their_order(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 7, shard_size=3)])
    samples = [6, 0, 5, 0, 1]
    assert manifest.keys_of(samples) == [f"sample-{number:05d}" for number in samples]
    assert manifest.keys_of(np.array(samples)) == [manifest.key(number) for number in samples]
    assert manifest.keys_of([]) == []


def test_some_samples_alone_keep_their_names_labels_and_places(tmp_path, make_shards):
    manifest = build_manifest([make_shards(tmp_path, 9, shard_size=3)])
    chosen = np.array([1, 2, 7])
    some = select(manifest, chosen)
    assert len(some) == 3 and some.counts().tolist() == [2, 0, 1]
    assert [some.name(i) for i in range(3)] == [manifest.name(int(i)) for i in chosen]
    assert some.shard_of(np.arange(3)).tolist() == manifest.shard_of(chosen).tolist()
    for column in ("label", "offset", "size", "crc", "kind"):
        assert getattr(some, column).tolist() == getattr(manifest, column)[chosen].tolist()
    others = select(manifest, np.array([1, 2, 8]))
    assert len({one.fingerprint for one in (manifest, some, others)}) == 3
    assert select(manifest, np.arange(9)) is manifest


def test_name_of_a_key_that_is_no_text(tmp_path, make_tar):
    path = make_tar(tmp_path / "a.tar", [("\udcff.jpg", b"")])
    manifest = build_manifest([str(path)])
    assert manifest.name(0) == f"{path}: key \\xff" and manifest.names_in(0) == ["\udcff"]


def test_fingerprint_follows_the_samples_not_their_place(tmp_path, make_shards):
    def fingerprint(folder, **settings):
        return build_manifest([make_shards(tmp_path / folder, 6, **settings)]).fingerprint

    original = fingerprint("a")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    assert build_manifest([f"{tmp_path}/elsewhere/*.tar"]).fingerprint == original
    assert fingerprint("b", shard_size=3) != original
    assert fingerprint("c", size=40) != original
    assert fingerprint("d", labels=False) != original  # other positions in the tar


def test_fingerprint_does_not_follow_the_names_of_the_shards(tmp_path, make_shards):
    """Earlier versions recorded one that does: it is still known."""
    pattern = make_shards(tmp_path / "a", 6, shard_size=2)
    before = build_manifest([pattern])
    subset = select(before, np.array([1, 4]))
    for shard in before.shards:
        Path(shard).rename(Path(shard).with_name(f"renamed-{Path(shard).name}"))
    after = build_manifest([f"{tmp_path}/a/*.tar"])
    assert after.fingerprint == before.fingerprint
    assert after.former_fingerprint != before.former_fingerprint
    assert select(after, np.array([1, 4])).fingerprint == subset.fingerprint
    assert after.is_recorded_as(before.fingerprint)
    assert before.is_recorded_as(before.former_fingerprint)
    assert not after.is_recorded_as(before.former_fingerprint)
    turned = build_manifest(after.shards[::-1])
    assert not turned.is_recorded_as(after.fingerprint)
    assert merge([before, turned]).is_recorded_as(merge([after, turned]).fingerprint)


def test_fingerprint_follows_keys_and_order(tmp_path, make_tar):
    members = [("a.jpg", b"1"), ("b.jpg", b"2")]
    shards = []
    for name, content in (("x", members), ("y", [("a.jpg", b"1"), ("c.jpg", b"2")])):
        (tmp_path / name).mkdir()
        shards.append(str(make_tar(tmp_path / name / "s.tar", content)))
    x, y = (build_manifest([shard]).fingerprint for shard in shards)
    both, turned = (build_manifest(order).fingerprint for order in (shards, shards[::-1]))
    assert len({x, y, both, turned}) == 4


def test_fingerprint_follows_contents(tmp_path, make_tar):
    """Other pixels of the same size and name are other samples."""
    found = []
    for content in (b"1", b"2"):
        path = make_tar(tmp_path / "a.tar", [("a.jpg", content)])
        shutil.rmtree(tmp_path / ".mae-index", ignore_errors=True)
        found.append(build_manifest([str(path)]).fingerprint)
    assert found[0] != found[1]


def test_empty_shards_among_others_have_no_samples(tmp_path, make_tar, make_shards):
    empty = str(make_tar(tmp_path / "empty.tar", []))
    full = make_shards(tmp_path / "full", 6, shard_size=3)
    manifest = build_manifest([full, empty])
    assert manifest.counts().tolist() == [3, 3, 0]
    (tmp_path / "first.tar").write_bytes(Path(empty).read_bytes())
    manifest = build_manifest([str(tmp_path / "first.tar"), full])
    assert manifest.counts().tolist() == [0, 3, 3]
    assert manifest.key(0) == "sample-00000" and manifest.shard_of(0) == 1


def test_nothing_but_empty_shards_is_refused(tmp_path, make_tar):
    empty = str(make_tar(tmp_path / "empty.tar", []))
    assert refused(build_manifest, [empty]) == f"data.train: no images in 1 shards, first {empty}"


def test_a_damaged_shard_among_many_is_named(tmp_path, make_shards):
    pattern = make_shards(tmp_path, 40, shard_size=4)
    bad = tmp_path / "shard-000007.tar"
    bad.write_bytes(bad.read_bytes()[:1000])
    assert refused(build_manifest, [pattern]).startswith(f"{bad}: ")


def test_progress_is_reported(tmp_path, make_shards):
    heard = []
    build_manifest(
        [make_shards(tmp_path, 6, shard_size=2)], progress=lambda *seen: heard.append(seen)
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_merged_data_sets_follow_each_other(tmp_path, make_shards):
    one = build_manifest([make_shards(tmp_path / "a", 5, shard_size=2)])
    two = build_manifest([make_shards(tmp_path / "b", 4, shard_size=3)])
    both = merge([one, two])
    assert len(both) == 9 and both.datasets == (3, 2)
    assert both.first.tolist() == [0, 2, 4, 5, 8]
    assert [counts.tolist() for counts in both.dataset_counts()] == [[2, 2, 1], [3, 1]]
    assert [both.name(n) for n in range(9)] == [
        *(one.name(n) for n in range(5)),
        *(two.name(n) for n in range(4)),
    ]
    assert list(both.shards) == [*one.shards, *two.shards]
    assert [both.identity(shard) for shard in range(5)] == [
        *(one.identity(shard) for shard in range(3)),
        *(two.identity(shard) for shard in range(2)),
    ]
    assert both.crc.tolist() == [*one.crc, *two.crc]
    assert len({one.fingerprint, two.fingerprint, both.fingerprint}) == 3
    assert merge([two, one]).fingerprint != both.fingerprint
    assert merge([one]) is one


def test_a_million_samples_take_40_bytes_each_beside_their_keys(tmp_path):
    each, shards = 1000, 20
    keys = "\0".join(f"sample-{number:08d}" for number in range(each)).encode()
    index = ShardIndex(
        keys=keys,
        offset=np.zeros(each, np.int64),
        size=np.zeros(each, np.uint32),
        crc=np.zeros(each, np.uint32),
        label=np.zeros(each, np.int32),
        kind=np.zeros(each, np.uint8),
        bytes=0,
        sha256="0" * 64,
    )
    for number in range(shards):
        path = tmp_path / f"{number:03d}.tar"
        path.touch()
        _store(
            tmp_path / ".mae-index" / f"{path.name}.safetensors",
            index,
            str(path.stat().st_mtime_ns),
        )
    manifest = build_manifest([f"{tmp_path}/*.tar"])
    held = [value for value in vars(manifest).values() if isinstance(value, np.ndarray)]
    assert len(manifest) == each * shards
    assert sum(column.nbytes for column in held) < 40 * len(manifest)
    assert sum(map(len, manifest.keys)) == len(keys) * shards


def test_mistakes_name_the_setting():
    assert refused(build_manifest, [], "data.val").startswith("data.val: no shards given")


def test_summary(tmp_path, make_shards):
    lines = dict(summary(build_manifest([make_shards(tmp_path / "a", 10)])))
    assert lines["shards"] == "2 of 2 to 8 images"
    assert lines["images"] == "10: 10 jpg"
    assert lines["labels"] == "10 samples, 3 classes"
    bare = make_shards(tmp_path / "b", 4, labels=False, extension="png")
    lines = dict(summary(build_manifest([bare])))
    assert lines["images"] == "4: 4 png" and lines["labels"] == "none"


def test_real_shards(shared_data, tmp_path):
    manifest = build_manifest([f"{shared_data}/cifar10/test-*.tar"], index_dir=tmp_path)
    assert len(manifest) == 10_000
    assert np.bincount(require_labels(manifest, "--test")).tolist() == [1000] * 10
