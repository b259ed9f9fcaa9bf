import os

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.pack.listing import list_folder


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
def test_classes_follow_top_level_folders(tmp_path, save, files, expected):
    for name in files:
        save(name)
    listing = list_folder(tmp_path / "images")
    assert list(listing.classes) == expected
    labels = [expected.index(name.split("/")[0]) if expected else None for name in sorted(files)]
    assert [source.label for source in listing.sources] == labels
    assert listing.splits == (("train", len(files)),)


def test_single_folder_is_a_class_on_request(tmp_path, save):
    save("only/a.jpg")
    assert list_folder(tmp_path / "images", labels=True).classes == ("only",)


def test_image_outside_of_all_classes_is_named(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    loose = save("loose.jpg")
    with pytest.raises(UserError, match="lies in no class folder \\(--no-labels") as error:
        list_folder(tmp_path / "images", labels=True)
    assert str(error.value).startswith(f"{loose}: ")


def test_files_without_an_image_extension_are_skipped(tmp_path, save):
    save("a.jpg"), save("B.JPEG"), save("c.PNG"), save("d.webp"), save("e.TIFF")
    folder = tmp_path / "images"
    np.save(folder / "f.npy", np.zeros((4, 4), np.uint8))
    (folder / "notes.txt").write_text("hello")
    (folder / "README").write_text("hello")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    listing = list_folder(folder)
    assert names(listing) == ["B.JPEG", "a.jpg", "c.PNG", "d.webp", "e.TIFF", "f.npy"]
    assert [source.extension for source in listing.sources][:2] == ["jpeg", "jpg"]
    assert dict(listing.skipped) == {
        "notes.txt": ".txt: no image",
        "README": "no extension: no image",
        "gone.jpg": "cannot be read: No such file or directory",
    }
    assert listing.sizes.tolist() == [(folder / name).stat().st_size for name in names(listing)]


def test_images_that_are_not_read_are_named_with_the_remedy(tmp_path, save):
    folder = save("a.jpg").parent
    jpeg = (folder / "a.jpg").read_bytes()
    (folder / "b.heic").write_bytes(b"any")
    (folder / "c").write_bytes(jpeg)
    (folder / "d.dat").write_bytes(b"GIF89a")
    (folder / "e.CR2").write_bytes(b"II*\0")
    save("IMG_2019.05.01.jpg"), save("f.JFIF")
    os.mkfifo(folder / "g.jpg")
    listing = list_folder(folder)
    assert names(listing) == ["IMG_2019.05.01.jpg", "a.jpg", "f.JFIF"]
    convert = "is not read: convert it to one of JPEG, PNG, WebP, BMP, AVIF, TIFF, .npy"
    assert dict(listing.skipped) == {
        "b.heic": f".heic (HEIF) {convert}",
        "c": "no extension, but holds an image (JPEG): rename it to end in .jpeg",
        "d.dat": ".dat, holds an image (GIF) that is not read: convert it",
        "e.CR2": f".cr2 (camera raw) {convert}",
        "g.jpg": "a folder, FIFO, device or socket, not a file",
    }


def test_hidden_files_and_folders_are_skipped(tmp_path, save):
    save("a.jpg"), save(".hidden.jpg"), save(".thumbnails/a.jpg"), save("x/.cache/b.jpg")
    listing = list_folder(tmp_path / "images")
    assert names(listing) == ["a.jpg"] and listing.skipped == ()


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    (tmp_path / "subset").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "subset" / name).symlink_to(tmp_path / "images" / name)
    (tmp_path / "images" / "cat" / "round").symlink_to(tmp_path / "images")
    assert names(list_folder(tmp_path / "subset")) == ["cat/a.jpg", "dog/b.jpg"]


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "found no files"), (["a.txt", "b.gif", "Makefile"], "found only .gif, .txt, Makefile")],
)
def test_folder_without_images_is_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        list_folder(tmp_path)
    kinds = "JPEG, PNG, WebP, BMP, AVIF, TIFF, .npy"
    assert str(error.value) == f"{tmp_path}: no images: expected {kinds}, {message}"


def test_fingerprint_changes_with_the_files(tmp_path, save):
    path = save("a.jpg")
    before = list_folder(tmp_path / "images").fingerprint
    assert list_folder(tmp_path / "images").fingerprint == before
    os.utime(path, ns=(0, 12345))
    assert list_folder(tmp_path / "images").fingerprint != before
