"""`mae duplicates`: pairs in a JSON file, and a page of pictures."""

import json

import pytest
from PIL import Image

from mae.cli import main
from tests.similarity.test_duplicates import file_of, picture


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders with classes; one picture is in both, under another class."""
    folder = tmp_path_factory.mktemp("duplicates")
    for split, offset in (("train", 0), ("test", 50)):
        for number in range(6):
            place = folder / split / "xy"[number % 2] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file_of(picture(number + offset)))
    (folder / "test" / "y" / "copy.jpg").write_bytes(file_of(picture(2), "JPEG", quality=60))
    return folder


def duplicates(folders, out, *more):
    words = ["duplicates", str(folders / "test"), "--against", str(folders / "train")]
    return main([*words, "--out", str(out), "--workers", "0", *more])


def test_a_leak_is_counted_named_and_shown(folders, tmp_path, capsys):
    assert duplicates(folders, tmp_path / "d.json", "--picture", str(tmp_path / "d.png")) == 0
    printed = capsys.readouterr().out
    assert "within: 0 of 7 images" in printed and "against: 1 of 7 images" in printed
    assert "of another class than their duplicate" in printed
    report = json.loads((tmp_path / "d.json").read_text())
    within, across = report["comparisons"]
    assert within["pairs"] == [] and across["other_class"] == 1
    (pair,) = across["pairs"]
    assert pair["kind"] == "hash"
    assert pair["image"]["key"] == "y/copy.jpg" and pair["image"]["class"] == "y"
    assert pair["duplicate_of"]["key"] == "x/2.png" and pair["duplicate_of"]["class"] == "x"
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.height > 160


def test_features_are_compared_too(folders, tmp_path, capsys):
    out = tmp_path / "d.json"
    assert duplicates(folders, out, "--with", "pixels", "--exact") == 2
    assert "--exact: looks for no near duplicates" in capsys.readouterr().err
    assert duplicates(folders, out, "--with", "pixels", "--threshold", "0.1") == 0
    report = json.loads(out.read_text())
    kinds = report["comparisons"][1]["kinds"]
    assert report["threshold"] == 0.1 and kinds["hash"] == 1 and kinds["features"] > 0
    assert "features 0." in out.with_suffix(".html").read_text()


def test_no_page_of_an_earlier_call_stays_beside_new_results(folders, tmp_path, capsys):
    out, copy = tmp_path / "d.json", tmp_path / "in"
    copy.mkdir()
    for name in "ab":
        (copy / f"{name}.png").write_bytes(file_of(picture(1)))
    words = ["duplicates", str(copy), "--out", str(out), "--workers", "0"]
    assert main(words) == 0 and out.with_suffix(".html").exists()
    (copy / "b.png").write_bytes(file_of(picture(2)))
    assert main(words) == 0 and not out.with_suffix(".html").exists()
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.9"], "--threshold: is for --with"),
        (["--picture", "d.txt"], "must end in .html or .png"),
        (["--out", "."], "--out: . must end in .json"),
    ],
)
def test_wrong_use_is_refused_in_one_line(folders, tmp_path, capsys, options, message):
    assert duplicates(folders, tmp_path / "d.json", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.iterdir())


def test_unusable_images_are_named_and_counted(folders, tmp_path, capsys):
    for path in (folders / "test").rglob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"nothing")
    words = ["duplicates", str(tmp_path), "--out", str(tmp_path / "out" / "d.json")]
    assert main([*words, "--workers", "0"]) == 2
    assert "bad.png" in capsys.readouterr().err
    assert main([*words, "--workers", "0", "--max-bad", "1"]) == 0
    report = json.loads((tmp_path / "out" / "d.json").read_text())
    assert len(report["unusable"]) == 1 and "bad.png" in report["unusable"][0]
    assert report["comparisons"][0]["images"] == 6
