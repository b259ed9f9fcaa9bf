import multiprocessing
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.data.class_matching import with_class_names
from mae.data.indexing import build_manifest
from mae.pack import folder_copies, packed_folders
from mae.pack.folder_changes import changes_since
from mae.pack.folder_copies import copy_in_use
from mae.pack.packed_folders import (
    copies_read,
    is_folder,
    is_packed,
    list_images,
    packed_folder,
    settled_folders,
    with_packed_folders,
)


@pytest.fixture
def images(tmp_path, save):
    """A folder of 6 images in 2 class folders."""
    for number in range(6):
        save(f"{'ab'[number % 2]}/{number}.png", number)
    return tmp_path / "images"


@pytest.fixture
def data(tmp_path, images):
    """Settings that train on the folder."""
    return DataConfig(train=(str(images),), packed_dir=tmp_path / "packed")


def packed(data, key="data.train", patterns=None):
    """Manifest of data.train or of `patterns`, as a command opens it."""
    return build_manifest(with_packed_folders(patterns or data.train, key, data), key)


def leave(copy):
    """Let go of a copy, as at the end of the process that reads it."""
    os.close(folder_copies._in_use.pop(copy))


def test_a_folder_is_packed_once(data, images, capsys, monkeypatch):
    assert not is_packed(str(images), "data.train", data)
    manifest = packed(data)
    assert is_packed(str(images), "data.train", data)
    said = capsys.readouterr().err
    assert (
        f"data.train: {images}: 6 images (0.0 MB) are packed, once, into {data.packed_dir}" in said
    )
    named = with_class_names(manifest, "data.train")
    assert (named.class_names, sorted(named.label.tolist())) == (("a", "b"), [0, 0, 0, 1, 1, 1])
    copy = Path(manifest.shards[0]).parent
    assert copies_read(data, {"data.train": data.train}) == {str(images): copy.name}
    monkeypatch.chdir(images.parent)
    again = packed(data, patterns=("./images/",))  # the same one by another name
    assert again.fingerprint == manifest.fingerprint
    assert capsys.readouterr().err == ""


def test_a_changed_folder_is_packed_anew(data, images, save, capsys):
    before = Path(packed(data).shards[0]).parent
    (images / "a" / "0.png").unlink()
    save("b/new.png", 8)
    (images / "b" / "1.png").write_bytes((images / "b" / "3.png").read_bytes() + b"\0")
    os.utime(images / "b" / "5.png", (1, 1))
    capsys.readouterr()
    after = packed(data)
    assert Path(after.shards[0]).parent != before
    said = "1 file added (b/new.png), 1 file removed (a/0.png), 2 files changed (b/1.png, b/5.png)"
    assert f"{images} has changed since it was packed: {said}" in capsys.readouterr().err
    changes = changes_since(before, list_images(images, "x"))
    assert changes is not None and (changes.resized, changes.touched) == (["b/1.png"], ["b/5.png"])
    assert changes_since(data.packed_dir / "gone", list_images(images, "x")) is None


def test_the_copy_that_was_asked_for_last_is_recorded(data, images, save):
    """Of the folders of a run alone, though the process reads others, and other shares."""
    sets = {"data.train": data.train}
    before = copies_read(data, sets)
    assert not before
    first = Path(packed(data).shards[0]).parent.name
    packed(data, patterns=(str(images / "b"),))
    packed(data.model_copy(update={"val_share": 0.34}))
    assert copies_read(data, sets) == {str(images): first}
    save("a/new.png", 9)
    second = Path(packed(data).shards[0]).parent.name
    assert copies_read(data, sets) == {str(images): second} != {str(images): first}
    (images / "a" / "new.png").unlink()
    packed(data)
    assert copies_read(data, sets) == {str(images): first}


def test_files_written_anew_with_the_same_content_are_the_same_samples(data, images):
    before = packed(data)
    os.utime(images / "a" / "0.png", (1, 1))
    after = packed(data)
    assert after.shards[0] != before.shards[0]
    assert after.fingerprint == before.fingerprint


def test_a_share_is_held_out(data, images):
    data = data.model_copy(update={"val_share": 0.34})
    train, val = packed(data), packed(data, "data.val", data.held_out)
    assert len(train) + len(val) == 6 and min(len(train), len(val)) > 0
    assert not set(train.crc.tolist()) & set(val.crc.tolist())
    assert len(packed(data, "--train")) == 6  # all, where neither side is asked for
    for share, count in ((0.01, 0), (0.99, 6)):
        with pytest.raises(UserError, match=f"data.val_share: {share} of 6 images are {count}"):
            packed_folder(images, packed_dir=data.packed_dir, val_share=share)
    chosen = data.model_copy(update={"val": (str(images / "a"),)})
    assert (len(packed(chosen)), chosen.held_out) == (6, (str(images / "a"),))
    of_shards = data.model_copy(update={"train": tuple(train.shards)})
    with pytest.raises(UserError, match="holds out images of a folder, and data"):
        packed(of_shards, "data.val", of_shards.held_out)


def test_likely_masks_are_no_images(data, images, save, capsys):
    for number in range(6):
        save(f"{'ab'[number % 2]}/{number}_mask.png", number)
    manifest = packed(data)
    assert len(manifest) == 6 and not manifest.warnings()
    assert (
        "6 files are masks of images by the name (*_mask.png), no images" in capsys.readouterr().err
    )
    with tarfile.open(manifest.shards[0]) as tar:
        assert sum(name.endswith(".mask.png") for name in tar.getnames()) == 6


def test_floats_and_names_that_are_not_utf8(tmp_path, data):
    folder = tmp_path / "floats"
    folder.mkdir()
    np.save(folder / "x.npy", np.zeros((2, 8, 8), np.float32))
    (folder / "x.npy").rename(folder / os.fsdecode(b"\xff\n.npy"))
    assert len(packed(data, patterns=(str(folder),))) == 1
    copy = data.packed_dir / copy_in_use(folder, 0.0)
    changes = changes_since(copy, list_images(folder, "x"))
    assert changes is not None and not any(changes)


def test_folders_and_shards_together(data, images, make_shards, tmp_path):
    shards = make_shards(tmp_path / "shards", 4, extension="png")
    assert not is_folder(str(tmp_path / "shards")) and not is_folder(shards)
    assert len(packed(data, patterns=(str(images / "a"), shards))) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "no images: expected .* found no files"),
        (
            "split",
            "split holds splits, not classes: train, valid: give data.train=.*/train data.val",
        ),
        ("shards", "shards is a folder with tars in it: write '?.*/shards/\\*.tar"),
        ("nowhere", "no such folder or shard: .*nowhere"),
    ],
)
def test_other_folders(tmp_path, data, images, make_shards, name, message):
    (tmp_path / "empty").mkdir()
    shutil.copytree(images / "a", tmp_path / "split" / "train")
    shutil.copytree(images / "b", tmp_path / "split" / "valid")
    make_shards(tmp_path / "shards", 1)
    with pytest.raises(UserError, match=f"^--test: .*{message}") as error:
        packed(data, "--test", (str(tmp_path / name),))
    assert "\n" not in str(error.value)


def test_no_place_and_no_room(data, images, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data.packed_dir: .*/file: cannot be written: .* choose"):
        packed_folder(images, packed_dir=tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(UserError, match=r"takes 0.0 GB in .*packed, where 0.0 GB are free: set"):
        packed(data)


def test_a_copy_with_a_shard_missing_is_made_again(data, capsys):
    manifest = packed(data)
    Path(manifest.shards[0]).unlink()
    assert packed(data).fingerprint == manifest.fingerprint
    assert capsys.readouterr().err.count("are packed, once") == 2


def test_former_copies_are_deleted_unless_they_are_read(data, images, save):
    copies = []
    for number in range(4):
        save(f"a/more-{number}.png", number)
        copies.append(Path(packed(data).shards[0]).parent)
        if number == 0:
            continue
        leave(copies[-1])  # no process reads it any more
    assert [copy.exists() for copy in copies] == [True, False, True, True]  # the first is read
    old = copies[2] / "in-use"
    os.utime(old, (1, 1))
    unfinished = [data.packed_dir / f".{copies[0].name}.{rest}" for rest in ("parts", "deleted")]
    for folder in unfinished:
        folder.mkdir()
    os.utime(unfinished[1], (1, 1))
    packed(data, patterns=(str(images / "b"),))  # another folder
    assert not copies[2].exists() and copies[3].exists()
    assert [folder.exists() for folder in unfinished] == [True, False]


def test_one_of_two_processes_packs(data, images, tmp_path, monkeypatch):
    original = packed_folders._make

    def slow(listing, copy, key, share, log, suggests):
        with (tmp_path / "made").open("a") as file:
            file.write("x")
        (tmp_path / "started").touch()
        while not (tmp_path / "waiting").exists():
            pass
        original(listing, copy, key, share, log, suggests)

    def say(text):
        if "waiting for another process" in text:
            (tmp_path / "waiting").touch()

    monkeypatch.setattr(packed_folders, "_make", slow)
    context = multiprocessing.get_context("fork")
    words = (str(images), "data.train", data.packed_dir, 0.0, say)
    processes = [context.Process(target=packed_folder, args=words) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "made").read_text() == "x"


def test_held_out_images_stay_held_out_when_others_join_them(data, images, save):
    """A new run from the weights of an old one is measured on images that neither has seen."""
    for number in range(6, 40):
        save(f"a/{number}.png", number)
    data = data.model_copy(update={"val_share": 0.3})

    def held_out():
        rows = Path(packed(data, "data.val").shards[0]).parent / "sources.tsv"
        lines = [line.split("\t") for line in rows.read_text().splitlines()]
        return {line[-1] for line in lines if line[0].startswith("val")}

    before = held_out()
    assert 4 <= len(before) <= 20
    save("a/0-first.png", 50)
    assert before <= held_out() <= before | {"a/0-first.png"}


def test_a_run_starts_with_one_copy_though_files_are_added(data, images, save, monkeypatch):
    with settled_folders():
        before = packed(data)
        save("a/later.png", 7)
        with monkeypatch.context() as patched:
            patched.setattr(packed_folders, "list_images", None)  # not called any more
            assert packed(data).shards[0] == before.shards[0]
    assert len(packed(data)) == len(before) + 1
