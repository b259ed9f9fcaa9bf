import os
import unicodedata

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.pack.class_list import quoted
from mae.pack.folders import list_folder


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


SYSTEM = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000")
SYSTEM += ("__MACOSX", ".ipynb_checkpoints", "#recycle", ".snapshot")


def test_system_folders_and_files_are_neither_classes_nor_images(tmp_path, save):
    save("cat/a.jpg"), save("cat/._a.jpg"), save("dog/b.jpg")
    for name in SYSTEM:
        save(f"{name}/a.jpg"), save(f"dog/{name}/b.jpg")
    (tmp_path / "images" / "Thumbs.db").touch()
    listing = list_folder(tmp_path / "images")
    assert names(listing) == ["cat/a.jpg", "dog/b.jpg"] and listing.classes == ("cat", "dog")
    (note,) = listing.notes
    assert note.startswith("20 hidden or system files and folders are passed over: ")
    assert ".snapshot (2)" in note and note.endswith(", …")


def test_two_unicode_spellings_are_one_class(tmp_path, save):
    composed, split = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    save(f"{composed}/a.jpg"), save(f"{split}/a.jpg"), save("dog/b.jpg")
    listing = list_folder(tmp_path / "images")
    assert listing.classes == (composed, "dog")
    assert [source.label for source in listing.sources] == [0, 0, 1]
    assert listing.notes == (
        f"folders in two Unicode spellings are one class: {quoted([composed])}",
    )


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (
            ["cat/a.jpg", "dog/b.jpg", "x.jpg", "y.jpg"],
            "no labels: 2 files lie beside the 2 folders, first x.jpg (--exclude them, and",
        ),
        (["only/a.jpg"], "no labels: all images lie in one folder, only (--labels takes it as"),
        (
            ["only/cat/a.jpg", "only/dog/b.jpg"],
            "no labels: all images lie in one folder, only (mae pack {}/only takes its folders as",
        ),
        (
            ["cat/x/a.jpg", "cat/y/b.jpg", "dog/c.jpg"],
            "classes are the top-level folders; those below, as cat/x, are not",
        ),
        (
            ["Cat/a.jpg", "cat /b.jpg", "dog/c.jpg"],
            "classes that differ in case or blanks only: Cat,",
        ),
        (["cat/a.jpg", "dog/b.jpg", "fox/"], "1 folder has no images: fox"),
        (
            ["a.jpg", "a.png", "b.jpg"],
            "1 image has the name of another but for the ending, first a.jpg and a.png: all are",
        ),
    ],
)
def test_notes_say_what_may_have_been_meant(tmp_path, save, files, note):
    for name in files:
        if name.endswith("/"):
            (tmp_path / "images" / name).mkdir()
        else:
            save(name)
    (found,) = list_folder(tmp_path / "images").notes
    assert found.startswith(note.format(tmp_path / "images"))


def test_folders_of_splits_are_no_classes(tmp_path, save):
    save("train/a.jpg"), save("Val/b.jpg")
    folder = tmp_path / "images"
    with pytest.raises(UserError) as error:
        list_folder(folder)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{folder}: Val, train are splits, not classes: pack each by itself")
    assert list_folder(folder, labels=True).classes == ("Val", "train")
    assert list_folder(folder, labels=False).classes == ()


def test_files_are_selected_and_counted(tmp_path, save):
    save("cat/a.jpg"), save("cat/b.png"), save("dog/c.jpg"), save("fox/d.jpg"), save("x.jpg")
    listing = list_folder(tmp_path / "images", None, ["*.jpg"], ["x.jpg", "fox"])
    assert names(listing) == ["cat/a.jpg", "dog/c.jpg"] and listing.classes == ("cat", "dog")
    assert listing.excluded[1] == ("excluded by --include or --exclude", 3)


def test_masks_are_no_images(tmp_path, save):
    save("cat/a.jpg"), save("cat/a_mask.png"), save("dog/b.jpg")
    folder = tmp_path / "images"
    with pytest.raises(UserError, match="look like masks of images"):
        list_folder(folder)
    listing = list_folder(folder, masks="*_mask.png")
    assert [(source.reference, source.mask) for source in listing.sources] == [
        ("cat/a.jpg", "cat/a_mask.png"),
        ("dog/b.jpg", None),
    ]
    assert listing.notes == ("1 image has no mask: dog/b.jpg …",)
    assert listing.fingerprint != list_folder(folder, exclude=["*_mask.png"]).fingerprint
    assert names(list_folder(folder, masks="none")) == ["cat/a.jpg", "cat/a_mask.png", "dog/b.jpg"]


def test_links_in_circles_are_named(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    folder = tmp_path / "images"
    (folder / "cat" / "d").symlink_to(folder / "dog")
    (folder / "dog" / "c").symlink_to(folder / "cat")
    (folder / "self.jpg").symlink_to("self.jpg")
    listing = list_folder(folder)
    assert names(listing) == ["cat/a.jpg", "cat/d/b.jpg", "dog/b.jpg", "dog/c/a.jpg"]
    reasons = dict(listing.skipped)
    assert reasons.pop("self.jpg").startswith("cannot be read: Too many levels")
    assert reasons == dict.fromkeys(("cat/d/c", "dog/c/d"), "link to a folder that it lies in")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_without_permission_are_named(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    folder = tmp_path / "images"
    (folder / "dog").chmod(0)
    try:
        listing = list_folder(folder)
    finally:
        (folder / "dog").chmod(0o700)
    assert names(listing) == ["cat/a.jpg"]
    assert listing.skipped == (("dog", "folder that cannot be read: Permission denied"),)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path, save):
    save("cat/a.jpg"), save("dog/b.jpg")
    (tmp_path / "subset").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "subset" / name).symlink_to(tmp_path / "images" / name)
    (tmp_path / "images" / "cat" / "round").symlink_to(tmp_path / "images")
    assert names(list_folder(tmp_path / "subset")) == ["cat/a.jpg", "dog/b.jpg"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "found no files"),
        (["@eaDir", ".x.jpg"], "found only .x.jpg, @eaDir"),
        (["a-0.tar"], "found shards; to pack them anew, give '{}/*.tar'"),
        (["a.txt", "b.gif", "Makefile"], "found only .gif, .txt, Makefile"),
    ],
)
def test_folder_without_images_is_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        list_folder(tmp_path)
    kinds = "JPEG, PNG, WebP, BMP, AVIF, TIFF, .npy"
    assert (
        str(error.value) == f"{tmp_path}: no images: expected {kinds}, {message.format(tmp_path)}"
    )


def test_fingerprint_changes_with_the_files(tmp_path, save):
    path = save("a.jpg")
    before = list_folder(tmp_path / "images").fingerprint
    assert list_folder(tmp_path / "images").fingerprint == before
    os.utime(path, ns=(0, 12345))
    assert list_folder(tmp_path / "images").fingerprint != before
