"""Manifest files: equal to the indexes, mapped, and refused where they are damaged or of others."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mae.base.errors import StorageError, UserError
from mae.data import manifest_file
from mae.data.class_matching import with_class_names
from mae.data.columns import Mapped
from mae.data.images import Images
from mae.data.index import COLUMNS
from mae.data.indexing import build_manifest, write_index
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest, ManifestSource
from mae.data.manifest_file import map_manifest, open_manifest
from mae.data.manifest_writer import write_manifest


def refused(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    (line,) = str(error.value).splitlines()
    return line


def assert_equal(one: Manifest, other: Manifest) -> None:
    for column in COLUMNS:
        assert getattr(one, column).tolist() == getattr(other, column).tolist(), column
    assert list(one.shards) == list(other.shards) and list(one.keys) == list(other.keys)
    assert one.first.tolist() == other.first.tolist()
    shards = range(len(one.shards))
    assert [one.identity(n) for n in shards] == [other.identity(n) for n in shards]
    assert one.fingerprint == other.fingerprint
    assert one.former_fingerprint == other.former_fingerprint
    assert one.datasets == other.datasets
    assert (one.passed_over, one.others) == (other.passed_over, other.others)
    assert one.warnings() == other.warnings()


@pytest.fixture
def shards(tmp_path, make_shards, make_tar):
    """Seven samples in three shards, an empty shard, and one with members that are not read."""
    make_shards(tmp_path / "set", 7, shard_size=3)
    make_tar(tmp_path / "set" / "w-empty.tar", [])
    extra = [("x.heic", b"?"), ("y.jpg", b"bytes"), ("y.txt", b"?"), ("y.json", b"{}")]
    make_tar(tmp_path / "set" / "x-others.tar", extra)
    return f"{tmp_path}/set/*.tar"


@pytest.fixture
def file(shards, tmp_path):
    """Manifest of `shards`, beside them."""
    path = tmp_path / "set" / "all.safetensors"
    write_index([shards], path, "index")
    return path


def test_a_manifest_file_equals_the_indexes(shards, file):
    expected = build_manifest([shards])
    found = build_manifest([str(file)])
    assert_equal(found, expected)
    assert [found.name(n) for n in range(8)] == [expected.name(n) for n in range(8)]
    assert any("heic" in line.lower() for line in found.warnings())
    assert found.other_members() == expected.other_members()


def test_a_well_kept_library_reads_it(file):
    with safe_open(file, "np") as opened:
        assert opened.metadata()["fingerprint"] == build_manifest([str(file)]).fingerprint
        assert opened.get_tensor("first").tolist() == [0, 3, 6, 7, 7, 8]


def test_no_shard_is_looked_at(file, monkeypatch):
    monkeypatch.setattr("mae.data.indexing.indexed_shard", None)
    assert len(build_manifest([str(file)])) == 8


def test_rows_are_mapped_not_loaded(file):
    found = build_manifest([str(file)])
    assert all(isinstance(getattr(found, column), Mapped) for column in COLUMNS)
    assert len(pickle.dumps(found)) < 4000
    assert_equal(pickle.loads(pickle.dumps(found)), found)


def test_it_moves_with_its_shards(file, tmp_path):
    before = build_manifest([str(file)])
    moved = tmp_path / "moved"
    file.parent.rename(moved)
    found = build_manifest([str(moved / file.name)])
    assert found.fingerprint == before.fingerprint
    assert Path(found.shards[0]) == moved / "shard-000000.tar"
    assert Images(found, 3)[0].shape[0] == 3


def test_manifest_files_and_shards_make_one_data_set(file, make_shards, tmp_path):
    more = make_shards(tmp_path / "more", 4, shard_size=2)
    listed = build_manifest([str(tmp_path / "set" / "*.tar"), more])
    assert_equal(build_manifest([str(file), more]), listed)
    again = tmp_path / "set" / "both.safetensors"
    assert_equal(write_index([str(file), more], again, "index"), listed)


def test_a_manifest_in_memory_is_written_with_its_own_labels(shards, tmp_path):
    known = build_manifest([shards])
    relabelled = known.changed(label=np.arange(8, dtype=np.int32))
    out = tmp_path / "set" / "labels.safetensors"
    write_manifest(relabelled, out)
    assert_equal(build_manifest([str(out)]), relabelled)
    assert relabelled.source is None and build_manifest([str(out)]).source is not None


def test_every_cut_and_every_changed_byte_is_refused(file):
    content = file.read_bytes()
    # the length of the header, the header, the tensors
    for position in [*range(0, 16), *range(16, len(content), 23)]:
        file.write_bytes(content[:position])
        assert str(file) in refused(open_manifest, str(file))
        changed = bytearray(content)
        changed[position] ^= 0x41
        file.write_bytes(changed)
        with pytest.raises(UserError) as error:
            open_manifest(str(file))
        assert str(file) in str(error.value)


def test_a_newer_format_is_named(file):
    file.write_bytes(file.read_bytes().replace(b"mae manifest 1", b"mae manifest 2"))
    assert "of another version (mae manifest 2" in refused(open_manifest, str(file))


def test_another_safetensors_file_is_no_manifest(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "weights.safetensors", {"format": "pt"})
    assert "is no manifest" in refused(build_manifest, [str(tmp_path / "weights.safetensors")])


def test_an_absent_manifest_and_absent_shards_are_named(file, tmp_path):
    absent = str(tmp_path / "absent.safetensors")
    assert refused(build_manifest, [absent]) == f"data.train: no such file: {absent}"
    shutil.copy(file, tmp_path / "alone.safetensors")
    message = refused(build_manifest, [str(tmp_path / "alone.safetensors")])
    assert message.startswith(f"{tmp_path}/alone.safetensors: lists ")
    assert message.endswith("shard-000000.tar, which is not there: keep both together")


def test_a_shard_that_changed_after_the_manifest_is_named(file, make_shards, tmp_path):
    found = build_manifest([str(file)])
    make_shards(tmp_path / "other", 300, size=50)
    (tmp_path / "other" / "shard-000000.tar").replace(tmp_path / "set" / "shard-000000.tar")
    with pytest.raises(StorageError) as error:
        Images(found, 3)[0]
    assert str(error.value).startswith(f"{tmp_path}/set/shard-000000.tar: has ")
    assert str(error.value).endswith("or make the manifest again (mae index --out)")


def test_a_shard_that_is_gone_is_named(file, tmp_path):
    found = build_manifest([str(file)])
    (tmp_path / "set" / "shard-000001.tar").unlink()
    with pytest.raises(StorageError, match=r"shard-000001.tar: key sample-00003: cannot be read"):
        Images(found, 3)[3]


def test_commands_and_signatures_are_not_recorded(tmp_path, make_shards):
    out = tmp_path / "all.safetensors"
    known = build_manifest([make_shards(tmp_path / "set", 2)])
    command = known.changed(shards=("pipe:cat secret.tar",))
    assert "lists no commands" in refused(write_manifest, command, out)
    signed = known.changed(shards=("https://host/a.tar?X-Amz-Signature=secret&id=7",))
    write_manifest(signed, out)
    assert b"secret" not in out.read_bytes()
    assert list(open_manifest(str(out)).shards) == ["https://host/a.tar?id=7"]
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("tmp*"))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, make_shards):
    known = build_manifest([make_shards(tmp_path / "set", 2)])
    assert "the name of a manifest ends in .safetensors" in refused(
        write_manifest, known, tmp_path / "manifest.json"
    )
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(
        write_manifest, known, tmp_path / "file" / "a.safetensors"
    )


@pytest.mark.parametrize("query", ["?token=secret", "?x=1&api_key=secret", "#1.tar"])
def test_addresses_with_secrets_or_fragments_are_refused(tmp_path, make_shards, query):
    known = build_manifest([make_shards(tmp_path / "set", 2)])
    out = tmp_path / "all.safetensors"
    message = refused(write_manifest, known.changed(shards=(f"https://host/a.tar{query}",)), out)
    assert "no address with # or a secret" in message and "=secret" not in message
    assert not out.exists()


def test_a_shard_is_listed_once(file, shards, tmp_path):
    first = str(tmp_path / "set" / "shard-000000.tar")
    both = f"data.train: shard named twice: {first}"
    assert refused(build_manifest, [str(file), first]) == both
    assert "named twice" in refused(build_manifest, [str(file), shards])
    again = tmp_path / "set" / "again.safetensors"
    assert "named twice" in refused(write_index, [str(file), first], again, "index")
    assert not again.exists()


def test_class_names_that_changed_after_the_manifest_are_refused(tmp_path, make_tar, make_image):
    folder = tmp_path / "set"
    folder.mkdir()
    classes = folder / "classes.txt"
    classes.write_text("cat\ndog\n")
    content = make_image(0)
    make_tar(folder / "a.tar", [("x.jpg", content), ("x.cls", b"dog"), ("y.jpg", content)])
    out = folder / "all.safetensors"
    found = write_index([f"{folder}/*.tar"], out, "index")
    assert found.label.tolist() == [1, NO_LABEL]
    assert with_class_names(found, "data.train").class_names == ("cat", "dog")
    classes.write_text("bird\ncat\ndog\n")
    message = refused(with_class_names, build_manifest([str(out)]), "data.train")
    assert message.startswith(f"data.train: {out} was made with other class names than {classes}")


def with_texts(file, old, new):
    """Replace text in the tensors of the shards, with valid checksums."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    body = content[8 + length :].replace(old, new)
    assert len(body) == len(content) - 8 - length and body != content[8 + length :]
    metadata = header["__metadata__"]
    digest = hashlib.sha256()
    for name in manifest_file.TABLE:
        start, end = header[name]["data_offsets"]
        digest.update(body[start:end])
    metadata["table"] = manifest_file.table_digest(digest.hexdigest(), metadata)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_a_manifest_of_a_server_names_no_files_of_this_machine(file):
    with_texts(file, b"shard-000000.tar", b"file:///etc/pass")
    message = "https://host/all.safetensors: lists files of this machine"
    assert refused(map_manifest, ManifestSource(file, "https://host/all.safetensors")) == message


def test_texts_of_strangers_hold_no_control_characters(file):
    with_texts(file, b"x.heic", b"\\u001b")
    lines = build_manifest([str(file)]).warnings()
    assert lines and all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("manifest", "shard"),
    [
        ("https://h/c/train.safetensors?sig=S", "https://h/c/w-empty.tar?sig=S"),
        ("/w.safetensors", "/w-empty.tar"),
        ("w.safetensors", "w-empty.tar"),
    ],
)
def test_names_follow_the_address_of_the_manifest(file, manifest, shard):
    assert map_manifest(ManifestSource(file, manifest)).shards[3] == shard


def test_metadata_of_strangers_are_no_traceback(tmp_path):
    for metadata in ({}, {"format": 3}, {"format": "mae manifest 1"}, []):
        text = json.dumps({"__metadata__": metadata, "x": {"data_offsets": []}}).encode()
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(len(text).to_bytes(8, "little") + text)
        assert "is no manifest" in refused(open_manifest, str(bad))


def test_a_false_fingerprint_is_found_by_a_check(file):
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["fingerprint"] = "0" * 64
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    assert "is damaged" in refused(open_manifest, str(file))  # the table's checksum covers it


def test_members_hold_only_what_is_not_read(file):
    with safe_open(file, "np") as opened:
        members = json.loads(opened.get_tensor("members").tobytes())
    assert [number for number, *_ in members] == [4]
