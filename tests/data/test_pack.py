import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from webdataset import tariterators

from mae.data import pack
from mae.data.decode import decode
from mae.data.loader import Images
from mae.data.manifest import NO_LABEL, build_manifest
from mae.data.pack import find_images, pack_folder
from mae.errors import UserError


@pytest.fixture
def save(tmp_path, make_image):
    """`save(name, number=0)` writes a small image below `tmp_path/images`, by its extension."""

    def save(name, number=0):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number, (12, 16))).save(path)
        return path

    return save


@pytest.fixture
def classes(tmp_path, save):
    """A folder of two classes with five images each."""
    for number in range(10):
        save(f"{'cat' if number % 2 else 'dog'}/{number}.{'png' if number == 3 else 'jpg'}", number)
    return tmp_path / "images"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(*arguments, **options):
    with pytest.raises(UserError) as error:
        pack_folder(*arguments, **options)
    (line,) = str(error.value).splitlines()
    return line


def read_by_webdataset(shard):
    """The samples of one shard; webdataset's own opener would leave it open."""
    with shard.open("rb") as file:
        files = tariterators.tar_file_expander([{"url": str(shard), "stream": file}])
        return list(tariterators.group_by_keys(files))


def sources(out):
    """Key → source file, from sources.tsv."""
    header, *rows = (out / "sources.tsv").read_text().splitlines()
    assert header == "key\tfile"
    return dict(row.split("\t") for row in rows)


def test_images_come_out_as_they_went_in(classes, tmp_path):
    out = tmp_path / "out"
    packed = pack_folder(classes, out, shard_size=4)
    assert (packed.train, packed.val) == (10, 0)
    assert [path.name for path in packed.shards] == [f"train-00000{i}.tar" for i in range(3)]
    manifest = build_manifest([f"{out}/train-*.tar"])
    assert np.bincount(manifest.shard).tolist() == [4, 4, 2]
    reader = Images(manifest, 3).reader
    files = sources(out)
    for sample in range(10):
        key = manifest.name(sample).rpartition("key ")[2]
        source = classes / files.pop(key)
        assert reader.read(sample) == source.read_bytes()
        assert manifest.label[sample] == ["cat", "dog"].index(source.parent.name)
    assert not files
    assert (out / "classes.txt").read_text() == "cat\ndog\n"


def test_webdataset_reads_the_shards(classes, tmp_path):
    packed = pack_folder(classes, tmp_path / "out", shard_size=4)
    samples = [sample for shard in packed.shards for sample in read_by_webdataset(shard)]
    files = sources(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == list(files)
    for sample in samples:
        source = classes / files[sample["__key__"]]
        assert sample[source.suffix[1:]] == source.read_bytes()
        assert sample["cls"] == str(["cat", "dog"].index(source.parent.name)).encode()


def test_packing_twice_gives_the_same_bytes(classes, tmp_path):
    for name in ("one", "two"):
        pack_folder(classes, tmp_path / name, shard_size=4, val_fraction=0.2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    pack_folder(classes, tmp_path / "three", shard_size=4, val_fraction=0.2, seed=1)
    assert content(tmp_path / "one") != content(tmp_path / "three")


def test_images_are_shuffled(tmp_path, save):
    for number in range(30):
        save(f"{number:02}.png", number)
    firsts = set()
    for seed in range(3):
        pack_folder(tmp_path / "images", tmp_path / f"out{seed}", seed=seed)
        order = [int(Path(name).stem) for name in sources(tmp_path / f"out{seed}").values()]
        assert sorted(order) == list(range(30)) and order != sorted(order)
        firsts.add(order[0])
    assert len(firsts) > 1


def test_validation_images_are_set_aside(classes, tmp_path):
    out = tmp_path / "out"
    packed = pack_folder(classes, out, shard_size=2, val_fraction=0.3)
    assert (packed.train, packed.val) == (7, 3)
    names = sorted(path.name for path in packed.shards)
    assert names == [f"train-00000{i}.tar" for i in range(4)] + ["val-000000.tar", "val-000001.tar"]
    files = sources(out)
    val = {file for key, file in files.items() if key.startswith("val-")}
    train = {file for key, file in files.items() if key.startswith("train-")}
    assert len(val) == 3 and len(train) == 7 and not val & train
    assert len(build_manifest([f"{out}/val-*.tar"])) == 3
    assert len(build_manifest([f"{out}/train-*.tar"])) == 7


@pytest.mark.parametrize("val_fraction", [0.01, 0.99])
def test_a_split_without_images_is_refused(classes, tmp_path, val_fraction):
    assert "of 10 images" in refused(classes, tmp_path / "out", val_fraction=val_fraction)


# Labels


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.jpg"], []),
        (["cat/a.jpg", "dog/b.jpg"], ["cat", "dog"]),
        (["cat/x/a.jpg", "dog/x/y/b.jpg"], ["cat", "dog"]),
        (["only/a.jpg", "only/b.jpg"], []),
        (["cat/a.jpg", "dog/b.jpg", "loose.jpg"], []),
    ],
    ids=["flat", "classes", "nested", "one-folder", "mixed"],
)
def test_classes_are_taken_where_folders_suggest_them(tmp_path, save, names, expected):
    for name in names:
        save(name)
    folder = find_images(tmp_path / "images")
    assert list(folder.classes) == expected
    labels = [expected.index(name.split("/")[0]) if expected else None for name in sorted(names)]
    assert [image.label for image in folder.images] == labels


def test_one_folder_is_a_class_when_asked_for(tmp_path, save):
    save("only/a.jpg")
    assert find_images(tmp_path / "images", labels=True).classes == ("only",)


def test_no_labels_when_asked_for(classes, tmp_path):
    pack_folder(classes, tmp_path / "out", labels=False)
    assert (build_manifest([f"{tmp_path}/out/*.tar"]).label == NO_LABEL).all()
    assert not (tmp_path / "out" / "classes.txt").exists()


def test_an_image_outside_of_all_classes_is_named(classes, tmp_path, save):
    loose = save("loose.jpg")
    message = refused(classes, tmp_path / "out", labels=True)
    assert message.startswith(f"{loose}: lies in no class folder (--no-labels")


# What is found


def test_what_is_no_image_is_skipped_and_named(tmp_path, save):
    save("a.jpg"), save("B.JPEG"), save("c.PNG")
    folder = tmp_path / "images"
    (folder / "notes.txt").write_text("hello")
    (folder / "README").write_text("hello")
    (folder / "empty.jpg").touch()
    (folder / "page.png").write_text("<html></html>")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(folder / "deep.png")
    found = find_images(folder)
    assert [image.path.name for image in found.images] == ["B.JPEG", "a.jpg", "c.PNG"]
    assert {path.name: reason for path, reason in found.skipped} == {
        "notes.txt": ".txt: not among .jpg, .jpeg, .png",
        "README": "no extension: not among .jpg, .jpeg, .png",
        "empty.jpg": "does not decode: no image inside",
        "page.png": "does not decode: no image inside",
        "deep.png": "more than 8 bits a channel (mode I;16)",
    }
    packed = pack_folder(folder, tmp_path / "out")
    assert packed.train == 3 and packed.folder.skipped == found.skipped


def test_decompression_bombs_are_skipped(tmp_path, save, monkeypatch):
    save("a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="no images"):
        find_images(tmp_path / "images")


def test_extensions_in_capitals_are_read_back(tmp_path, save):
    path = save("A.JPEG", 4)
    pack_folder(tmp_path / "images", tmp_path / "out")
    image = Images(build_manifest([f"{tmp_path}/out/*.tar"]), 3)[0]
    assert image.equal(decode(path.read_bytes(), "jpg", 3))


def test_hidden_files_and_folders_are_left_out(tmp_path, save):
    save("a.jpg"), save(".hidden.jpg"), save(".thumbnails/a.jpg"), save("x/.cache/b.jpg")
    found = find_images(tmp_path / "images")
    assert [image.path.name for image in found.images] == ["a.jpg"]
    assert found.skipped == ()


def test_linked_folders_are_followed_but_not_in_circles(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    (tmp_path / "subset").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "subset" / name).symlink_to(tmp_path / "images" / name)
    (tmp_path / "images" / "cat" / "round").symlink_to(tmp_path / "images")
    found = find_images(tmp_path / "subset")
    assert [str(i.path.relative_to(tmp_path / "subset")) for i in found.images] == [
        "cat/a.jpg",
        "dog/b.jpg",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "found no files"), (["a.txt", "b.gif", "Makefile"], "found only .gif, .txt, Makefile")],
)
def test_a_folder_without_images(tmp_path, names, message):
    source = tmp_path / "images"
    source.mkdir()
    for name in names:
        (source / name).touch()
    line = refused(source, tmp_path / "out")
    assert line == f"{source}: no images: expected .jpg, .jpeg, .png, {message}"
    assert not (tmp_path / "out").exists()


def test_no_such_folder(tmp_path):
    assert refused(tmp_path / "nope", tmp_path / "out") == f"{tmp_path}/nope: no such folder"


def test_file_names_that_are_no_text(tmp_path, save):
    directory = os.fsencode(save("a.jpg").parent)
    try:
        os.rename(directory + b"/a.jpg", directory + b"/\xff.jpg")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system wants UTF-8")
    pack_folder(tmp_path / "images", tmp_path / "out")
    assert (tmp_path / "out" / "sources.tsv").read_bytes().endswith(b"\t\xff.jpg\n")


# The folder written


def test_an_empty_folder_may_be_the_target(classes, tmp_path):
    (tmp_path / "out").mkdir()
    assert pack_folder(classes, tmp_path / "out").train == 10


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_stays_untouched(classes, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        out.write_text("mine")
    assert refused(classes, out) == f"{out}: is not empty; nothing is overwritten"
    assert (out / "mine.txt" if kind == "folder" else out).read_text() == "mine"


def test_the_target_needs_a_name(classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "write the name of a new folder" in refused(classes, Path())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(classes, tmp_path, monkeypatch, error):
    write_shard = pack._write_shard

    def fail_on_the_third(path, keys, samples):
        if path.name == "train-000002.tar":
            path.write_bytes(b"half")
            raise error
        write_shard(path, keys, samples)

    monkeypatch.setattr(pack, "_write_shard", fail_on_the_third)
    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        pack_folder(classes, tmp_path / "out", shard_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    if isinstance(error, OSError):
        assert re.match(f"{tmp_path}/out: cannot be written: .*No space", str(raised.value))


def test_an_image_that_vanishes_is_named(classes, tmp_path):
    def take_away(done, total):
        for path in classes.rglob("*.*"):
            path.unlink()

    message = refused(classes, tmp_path / "out", shard_size=2, progress=take_away)
    assert f"No such file or directory: '{classes}/" in message
    assert not (tmp_path / "out").exists()


def test_a_left_over_of_a_killed_run_is_replaced(classes, tmp_path):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "train-000009.tar").touch()
    packed = pack_folder(classes, tmp_path / "out")
    assert [path.name for path in packed.shards] == ["train-000000.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


def test_progress_is_told(classes, tmp_path):
    told = []
    pack_folder(
        classes,
        tmp_path / "out",
        shard_size=4,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(4, 10), (8, 10), (10, 10)]
