"""`mae explore` on the command line."""

import json

import numpy as np
import pytest

from mae.cli import main
from tests.explore.tables import columns, write


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "set.parquet", columns(30))


def test_a_page_beside_the_table(table, capsys):
    assert main(["explore", str(table)]) == 0
    printed = capsys.readouterr().out
    page = table.with_suffix(".html")
    assert f"{page}: 30 images, 0." in printed and "trustworthiness of the map 0." in printed
    assert "image-0007" in page.read_text()


def test_notes_are_printed(tmp_path, capsys):
    file = write(tmp_path / "a.parquet", {"x": np.arange(3.0), "y": np.ones(3)})
    assert main(["explore", str(file), "--out", str(tmp_path / "b" / "map.html")]) == 0
    assert "note: no thumbnails: no image in column image" in capsys.readouterr().out


def test_scores_colour_the_map(table, tmp_path, capsys):
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"images": [{"image": "image-0003", "score": 0.5}]}))
    assert main(["explore", str(table), "--scores", str(scores)]) == 0
    assert "29 of 30 images have no score" in capsys.readouterr().out
    assert '"anomaly score"' in table.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "map.png"], "--out: map.png must end in .html or .htm"),
        (["--scores", "none.json"], "none.json: holds no scores"),
        (["--out", "/dev/null/map.html"], "/dev/null/map.html: cannot be written"),
    ],
)
def test_wrong_use_is_one_line(table, capsys, words, message):
    assert main(["explore", str(table), *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_a_folder_is_no_table(capsys):
    assert main(["explore", "."]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ". is a folder, not a file" in line


def test_the_table_is_not_overwritten(table, capsys):
    odd = table.rename(table.with_suffix(".html"))
    assert main(["explore", str(odd)]) == 2
    assert "is the table: choose another name" in capsys.readouterr().err
    assert odd.read_bytes().startswith(b"PAR1")


@pytest.mark.parametrize("words", [["--side", "8"], ["--side", "x"], ["--clusters", "-1"]])
def test_impossible_options_are_refused(table, words):
    with pytest.raises(SystemExit) as error:
        main(["explore", str(table), *words])
    assert error.value.code == 2


def test_a_file_of_other_content_is_refused(tmp_path, capsys):
    file = tmp_path / "set.parquet"
    file.write_text("no table")
    assert main(["explore", str(file)]) == 2
    assert "set.parquet: cannot be read as Parquet" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["set.parquet"]
