import json
import os
import unicodedata

import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.cli import main
from mae.data.class_names import escaped, unescaped
from mae.data.indexing import build_manifest
from mae.pack.class_list import read_class_list
from mae.pack.listing import PackRequest
from mae.pack.sources import list_sources


@pytest.fixture
def save(tmp_path, make_image):
    """`save(name)` writes a small image below `tmp_path`."""

    def save(*names):
        for number, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_image(number, (12, 16))).save(path)

    return save


def labels(tmp_path, source, classes="classes.txt", **options):
    """{image: label} and the listing of a source below `tmp_path`."""
    request = PackRequest((str(tmp_path / source),), classes=tmp_path / classes, **options)
    listing = list_sources(request)
    return {found.reference: found.label for found in listing.sources}, listing


def refused(tmp_path, source, classes="classes.txt", **options):
    with pytest.raises(UserError) as error:
        labels(tmp_path, source, classes, **options)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("given", ["packed", "packed/classes.txt", "packed/pack.json"])
def test_second_folder_is_packed_with_the_numbers_of_the_first(given, tmp_path, save, capsys):
    save("train/ant/0.png", "train/bee/1.png", "train/cow é/2.png")
    save("val/bee/3.png", "val/cow é/4.png")
    packed, second = f"{tmp_path}/packed", f"{tmp_path}/second"
    assert main(["pack", f"{tmp_path}/train", packed, "--workers", "0"]) == 0
    command = ["pack", f"{tmp_path}/val", second, "--workers", "0"]
    assert main([*command, "--classes", f"{tmp_path}/{given}"]) == 0
    assert "no image of 1 of 3 classes: ant" in capsys.readouterr().out
    assert sorted(build_manifest([f"{second}/*.tar"]).label.tolist()) == [1, 2]
    assert (tmp_path / "second" / "classes.txt").read_text() == "ant\nbee\ncow é\n"


def test_single_class_folder_is_numbered(tmp_path, save):
    save("val/bee/3.png")
    (tmp_path / "classes.txt").write_text("ant\nbee")
    assert labels(tmp_path, "val")[0] == {"bee/3.png": 1}


def test_unknown_class_is_refused_with_both_lists(tmp_path, save):
    save("val/bee/3.png", "val/dog/4.png")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    message = refused(tmp_path, "val")
    file = tmp_path / "classes.txt"
    assert f"1 class is not in {file}: dog; {file} has ant, bee: rename" in message


def test_images_without_labels_are_refused(tmp_path, save):
    save("val/3.png")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    assert "lies in no class folder" in refused(tmp_path, "val")
    assert "contradict" in refused(tmp_path, "val", labels=False)


@pytest.mark.parametrize(
    ("classes", "rows", "expected"),
    [
        ("ant\nbee\n", ["bee", "ant"], [1, 0]),
        ("ant\nbee\n", ["1", "0"], [1, 0]),
        ("7\n3\n", ["3", "7"], [1, 0]),  # names, not numbers
    ],
)
def test_labels_of_tables(classes, rows, expected, tmp_path, save):
    save("0.png", "1.png")
    (tmp_path / "classes.txt").write_text(classes)
    text = "".join(f"{number}.png,{label}\n" for number, label in enumerate(rows))
    (tmp_path / "t.csv").write_text("path,label\n" + text)
    assert list(labels(tmp_path, "t.csv")[0].values()) == expected


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "path,label",
            "0.png,2",
            "class number 2, but .* has 2 classes, numbered from 0: ant, bee",
        ),
        ("path,label", "0.png,cat", "1 class is not in .*: cat; .* has ant, bee"),
        ("path", "0.png", "no column label"),
    ],
)
def test_labels_of_tables_outside_of_the_list(header, row, message, tmp_path, save):
    save("0.png")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    (tmp_path / "t.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(UserError, match=message):
        labels(tmp_path, "t.csv")


def test_shards_are_renumbered_by_name(tmp_path, make_shards):
    make_shards(tmp_path / "old", 6)
    (tmp_path / "old" / "classes.txt").write_text("x\ny\nz\n")
    (tmp_path / "classes.txt").write_text("z\nx\nw\ny\n")
    found, _ = labels(tmp_path, "old/shard-000000.tar")
    assert list(found.values()) == [1, 3, 0, 1, 3, 0]
    (tmp_path / "old" / "classes.txt").unlink()
    found, _ = labels(tmp_path, "old/shard-000000.tar")
    assert list(found.values()) == [0, 1, 2, 0, 1, 2]
    make_shards(tmp_path / "bare", 2, labels=False)
    assert "have no label" in refused(tmp_path, "bare/shard-000000.tar")


def test_two_spellings_of_an_accent_are_one_class(tmp_path, save):
    save(unicodedata.normalize("NFD", "val/bébé/0.png"))
    (tmp_path / "classes.txt").write_text(unicodedata.normalize("NFC", "ant\nbébé\n"), "utf-8")
    found, listing = labels(tmp_path, "val")
    assert list(found.values()) == [1]
    assert listing.classes == ("ant", unicodedata.normalize("NFC", "bébé"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt: no such file"),
        ("c.txt", b"", "c.txt: names no class"),
        ("c.txt", b"a\n\nb\n", "c.txt: line 2 is empty"),
        ("c.txt", b"a\nb\na\n", "c.txt: line 3 repeats line 1: a"),
        ("c.txt", "a\n".encode("utf-16"), "c.txt: is not text in UTF-8"),
        ("c.json", b"{", "c.json: is not JSON"),
        ("c.json", b'{"a": 1}', "c.json: has no list"),
        ("c.json", b'{"classes": []}', "c.json: names no class"),
    ],
)
def test_unusable_list_is_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^--classes: .*{message}"):
        read_class_list(tmp_path / name)


def test_folder_without_a_list_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"classes.txt: no such file \(packed without class names"):
        read_class_list(tmp_path)


def test_lists_of_other_editors_are_read(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n")
    assert read_class_list(tmp_path / "c.txt") == ("ant", "bee")
    (tmp_path / "c.json").write_text(json.dumps(["ant", "bee"]))
    assert read_class_list(tmp_path / "c.json") == ("ant", "bee")


@pytest.mark.parametrize("name", ["a\\b", "a\\tb", "a\tb\n", "\\", "\\\\n", "é \udcff"])
def test_escaped_names_are_read_back(name):
    assert unescaped(escaped(name)) == name
    assert "\n" not in escaped(name) and "\t" not in escaped(name)


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(UserError, match="is a FIFO, not a file"):
        read_class_list(tmp_path)
