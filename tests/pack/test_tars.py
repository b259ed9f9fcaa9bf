import pytest

from mae.base.errors import UserError
from mae.data.indexing import build_manifest
from mae.data.shard_reader import ShardReader
from mae.pack.listing import PackRequest
from mae.pack.pack import pack
from mae.pack.shard_plan import PackOptions
from mae.pack.sources import list_sources
from mae.pack.tars import list_tars


def test_shards_are_packed_into_new_shards(make_shards, tmp_path):
    pattern = make_shards(tmp_path / "old", 20, shard_size=5)
    packed = pack(PackRequest((pattern,)), tmp_path / "out", PackOptions(shard_size=8), workers=2)
    assert packed.shards == {"train": 3} and packed.labels == 20
    old, new = build_manifest([pattern]), build_manifest([f"{tmp_path}/out/*.tar"])
    rows = (tmp_path / "out" / "sources.tsv").read_text().splitlines()[1:]
    name_of = dict(row.split("\t") for row in rows)
    number = {old.name(sample): sample for sample in range(20)}
    seen = set()
    for sample in range(20):
        before = number[name_of[new.key(sample)]]
        seen.add(before)
        assert ShardReader(new).read(sample) == ShardReader(old).read(before)
        assert new.label[sample] == old.label[before]
    assert len(seen) == 20


def test_labels_are_ignored_or_required_on_request(make_shards, tmp_path):
    pattern = make_shards(tmp_path / "with", 3)
    assert {source.label for source in list_tars([pattern], labels=False).sources} == {None}
    pattern = make_shards(tmp_path / "without", 3, labels=False)
    assert {source.label for source in list_tars([pattern]).sources} == {None}
    with pytest.raises(UserError, match="--labels: 3 of 3 samples have no label"):
        list_tars([pattern], labels=True)


def test_other_members_are_counted_and_not_packed(make_tar, make_shards, tmp_path):
    pattern = make_shards(tmp_path / "old", 1, labels=False)
    manifest = build_manifest([pattern])
    image = bytes(ShardReader(manifest).read(0))
    members = [("a.jpg", image), ("a.json", b"{}"), ("a.cls", b"3"), ("b.txt", b"")]
    path = make_tar(tmp_path / "mixed.tar", members)
    listing = list_sources(PackRequest((str(path),)))
    assert [source.label for source in listing.sources] == [3]
    assert listing.notes == ("not packed: 1 .json, 1 .txt",)


def test_text_labels_are_counted_and_not_packed(make_tar, make_shards, tmp_path):
    image = bytes(ShardReader(build_manifest([make_shards(tmp_path / "old", 1)])).read(0))
    members = [("a.jpg", image), ("a.cls", b"cat"), ("b.jpg", image), ("b.cls", b"3")]
    path = str(make_tar(tmp_path / "mixed.tar", members))
    listing = list_tars([path])
    assert [source.label for source in listing.sources] == [None, 3]
    (note,) = listing.notes
    assert note.startswith("not read: labels (.cls), text instead of a class number: 1, first ")
    assert f"{path}: a.cls (cat); list the class names in a classes.txt beside" in note
    assert list_tars([path], labels=False).notes == ()
    with pytest.raises(UserError, match="--labels: 1 of 2 samples have no label"):
        list_tars([path], labels=True)


def test_class_names_are_read_from_classes_txt(make_shards, tmp_path):
    pattern = make_shards(tmp_path / "old", 6)
    assert list_tars([pattern]).classes == ()
    (tmp_path / "old" / "classes.txt").write_text("x\ny\nz\n")
    assert list_tars([pattern]).classes == ("x", "y", "z")
    (tmp_path / "old" / "classes.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match=r"classes\.txt names 2 classes, but .* has label 2"):
        list_tars([pattern])
    assert list_tars([pattern], labels=False).classes == ()


def test_sample_with_a_wrong_checksum_is_skipped(make_shards, tmp_path):
    pattern = make_shards(tmp_path / "old", 4, extension="png")
    shard = tmp_path / "old" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[int(build_manifest([pattern]).offset[2]) + 50] ^= 1
    out = tmp_path / "out"

    def damage(*numbers):
        shard.write_bytes(data)

    options = PackOptions(shard_size=1)
    packed = pack(PackRequest((pattern,)), out, options, progress=damage)
    assert packed.splits == {"train": 3}
    ((name, reason),) = packed.skipped
    assert "key sample-00002" in name and "not the bytes that were indexed" in reason
