from mae.data.indexing import build_manifest
from mae.data.manifest import Manifest
from mae.data.sample_names import sample_name


def manifest_of(folder, make_shards) -> Manifest:
    return build_manifest([make_shards(folder, 6)], "test")


def test_key_and_class_by_name_or_number(make_shards, tmp_path):
    plain = manifest_of(tmp_path / "plain", make_shards)
    assert sample_name(plain, 4) == "sample-00004\nclass 1"
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "classes.txt").write_text("cat\nbig dog\n\x1b[31m\n")
    named = manifest_of(tmp_path / "named", make_shards)
    assert [sample_name(named, i).partition("\n")[2] for i in range(2)] == ["cat", "big dog"]
    assert "\x1b" not in sample_name(named, 2)
    assert sample_name(named.changed(class_names=("eel", "fly", "gnu")), 1) == "sample-00001\nfly"
    none = named.changed(label=named.label[:] * 0 - 1)
    assert sample_name(none, 1) == "sample-00001"


def test_the_file_that_a_sample_was_packed_from(make_shards, tmp_path):
    plain = manifest_of(tmp_path, make_shards).changed(class_names=())
    rows = "key\tfile\nsample-00001\tcats/IMG_0010.jpg\nsample-00002\tIMG\x1b.jpg\n"
    (tmp_path / "sources.tsv").write_text(rows)
    assert sample_name(plain, 1).partition("\n")[0] == "IMG_0010.jpg"
    assert "\x1b" not in sample_name(plain, 2)
    assert sample_name(plain, 3).startswith("sample-00003")  # not in the table
    (tmp_path / "sources.tsv").write_text("")
    assert sample_name(plain, 1).startswith("sample-00001")
