import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import StorageError, UserError
from mae.decoding.pixels import BadImage
from mae.pack.sources import FileReader, Source, Wanted, find_images, find_sources, shown


@pytest.fixture
def save(tmp_path, make_image):
    """`save(name, number=0)` writes a small image below `tmp_path/images`, by its extension."""

    def save(name, number=0):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number, (12, 16))).save(path)
        return path

    return save


def names(listing):
    return [source.reference for source in listing.sources]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.jpg", "b.jpg"], []),
        (["cat/a.jpg", "dog/b.jpg"], ["cat", "dog"]),
        (["cat/x/a.jpg", "dog/x/y/b.jpg"], ["cat", "dog"]),
        (["only/a.jpg", "only/b.jpg"], []),
        (["cat/a.jpg", "dog/b.jpg", "loose.jpg"], []),
    ],
    ids=["flat", "classes", "nested", "one-folder", "mixed"],
)
def test_classes_are_taken_where_folders_suggest_them(tmp_path, save, files, expected):
    for name in files:
        save(name)
    listing = find_images(tmp_path / "images")
    assert list(listing.classes) == expected
    labels = [expected.index(name.split("/")[0]) if expected else None for name in sorted(files)]
    assert [source.label for source in listing.sources] == labels
    assert listing.splits == (("train", len(files)),)


def test_one_folder_is_a_class_when_asked_for(tmp_path, save):
    save("only/a.jpg")
    assert find_images(tmp_path / "images", labels=True).classes == ("only",)


def test_an_image_outside_of_all_classes_is_named(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    loose = save("loose.jpg")
    with pytest.raises(UserError, match="lies in no class folder \\(--no-labels") as error:
        find_images(tmp_path / "images", labels=True)
    assert str(error.value).startswith(f"{loose}: ")


def test_what_is_no_image_by_its_name_is_skipped(tmp_path, save):
    save("a.jpg"), save("B.JPEG"), save("c.PNG"), save("d.webp"), save("e.TIFF")
    folder = tmp_path / "images"
    np.save(folder / "f.npy", np.zeros((4, 4), np.uint8))
    (folder / "notes.txt").write_text("hello")
    (folder / "README").write_text("hello")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    listing = find_images(folder)
    assert names(listing) == ["B.JPEG", "a.jpg", "c.PNG", "d.webp", "e.TIFF", "f.npy"]
    assert [source.extension for source in listing.sources][:2] == ["jpeg", "jpg"]
    kinds = ".jpg, .jpeg, .png, .webp, .tif, .tiff, .npy"
    assert dict(listing.skipped) == {
        "notes.txt": f".txt: not among {kinds}",
        "README": f"no extension: not among {kinds}",
        "gone.jpg": "cannot be read: No such file or directory",
    }
    assert listing.sizes.tolist() == [(folder / name).stat().st_size for name in names(listing)]


def test_hidden_files_and_folders_are_left_out(tmp_path, save):
    save("a.jpg"), save(".hidden.jpg"), save(".thumbnails/a.jpg"), save("x/.cache/b.jpg")
    listing = find_images(tmp_path / "images")
    assert names(listing) == ["a.jpg"] and listing.skipped == ()


def test_linked_folders_are_followed_but_not_in_circles(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    (tmp_path / "subset").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "subset" / name).symlink_to(tmp_path / "images" / name)
    (tmp_path / "images" / "cat" / "round").symlink_to(tmp_path / "images")
    assert names(find_images(tmp_path / "subset")) == ["cat/a.jpg", "dog/b.jpg"]


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "found no files"), (["a.txt", "b.gif", "Makefile"], "found only .gif, .txt, Makefile")],
)
def test_a_folder_without_images(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        find_images(tmp_path)
    kinds = ".jpg, .jpeg, .png, .webp, .tif, .tiff, .npy"
    assert str(error.value) == f"{tmp_path}: no images: expected {kinds}, {message}"


def test_the_stamp_tells_changes(tmp_path, save):
    path = save("a.jpg")
    before = find_images(tmp_path / "images").stamp
    assert find_images(tmp_path / "images").stamp == before
    os.utime(path, ns=(0, 12345))
    assert find_images(tmp_path / "images").stamp != before


def test_names_on_one_line():
    assert shown("a\nb\tc\udcff") == "a\\nb\\tc\\udcff"
    assert shown("käse.jpg") == "käse.jpg"


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    reader = FileReader(str(tmp_path))
    with pytest.raises(StorageError, match=r"gone\.jpg: cannot be read: No such file"):
        reader.read("gone.jpg")
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13)))
    with pytest.raises(BadImage, match="cannot be read"):
        reader.read("mine.jpg")


# Which kind of source


def test_a_folder_is_found(tmp_path, save):
    save("a.jpg")
    listing = find_sources(Wanted((str(tmp_path / "images"),)))
    assert listing.sources == [Source("a.jpg", "jpg", None)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("{}/nope",), "nope: no such folder"),
        (("{}/nope", "{}/a.tar"), "nope: no such folder"),
        (("{}", "{}/a.tar"), "one folder, table or data set at a time; tars go together"),
        (("torchvision:MNIST", "{}/a.tar"), "at a time"),
        (("{}/a.zip",), "a.zip: is none of what can be packed: a folder, .csv"),
        (("{}/none.tar",), "none.tar"),
        (("{}/none.csv",), "none.csv: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_packed(tmp_path, sources, message):
    (tmp_path / "a.zip").touch()
    with pytest.raises(UserError, match=message) as error:
        find_sources(Wanted(tuple(source.format(tmp_path) for source in sources)))
    assert len(str(error.value).splitlines()) == 1
