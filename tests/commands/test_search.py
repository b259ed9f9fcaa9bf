"""`mae search`: images like a query."""

import json

import numpy as np
import pytest
from PIL import Image

from mae.cli import main
from mae.similarity import queries
from tests.evaluation.frozen import tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_shards, make_image):
    folder = tmp_path_factory.mktemp("search")
    make_shards(folder / "shards", 20, shard_size=12, size=20, extension="png")
    Image.fromarray(make_image(3, 20)).save(folder / "query.png")
    tiny_run(folder / "run")
    return folder


def search(data, out, *words, source="run"):
    features = source if source == "pixels" else str(data / source)
    among = ["--among", f"{data}/shards/*.tar", "--workers", "0", "--out", str(out)]
    return main(["search", features, *words, *among])


def test_a_file_finds_its_copy_and_samples_do_not_find_themselves(data, tmp_path, capsys):
    out = tmp_path / "found.png"
    assert search(data, out, str(data / "query.png"), "-k", "3") == 0
    assert "1   1.000  0                 sample-00003" in capsys.readouterr().out
    report = json.loads((tmp_path / "found.json").read_text())
    (query,) = report["queries"]
    assert query["query"] == "query.png" and query["found"][0]["number"] == 3
    assert len(query["found"]) == 3 and report["searched"] == 20
    with Image.open(out) as sheet:
        assert sheet.width > 300
    for source in ("run", "pixels"):
        assert search(data, tmp_path / "two.html", "3", "sample-00007", source=source) == 0
        report = json.loads((tmp_path / "two.json").read_text())
        for number, query in zip((3, 7), report["queries"], strict=True):
            assert query["query"] == f"sample-{number:05d}" and len(query["found"]) == 6
            assert number not in [one["number"] for one in query["found"]]
    assert "finds itself first" not in (tmp_path / "two.html").read_text()


def test_a_file_among_those_searched_does_not_find_itself(data, tmp_path, make_image):
    (photos := tmp_path / "photos").mkdir()
    for number in range(5):
        Image.fromarray(make_image(number, 200)).save(photos / f"{number}.png")
    (photos / "copy.png").write_bytes((photos / "2.png").read_bytes())
    words = ["--among", str(photos), "--workers", "0", "--out", str(tmp_path / "a.png")]
    assert main(["search", str(data / "run"), str(photos / "2.png"), "-k", "2", *words]) == 0
    (query,) = json.loads((tmp_path / "a.json").read_text())["queries"]
    keys = [one["key"] for one in query["found"]]
    assert keys[0] == "copy.png" and "2.png" not in keys  # a copy is a find
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.height > 160  # the photographs, not the encoder's few pixels


def test_an_index_gives_the_same_and_its_recall(data, tmp_path, capsys):
    reports = []
    for index in ("exact", "approximate"):
        assert search(data, tmp_path / "a.png", "3", "--index", index) == 0
        reports.append(json.loads((tmp_path / "a.json").read_text()))
    exact, approximate = (
        np.array([one["number"] for one in report["queries"][0]["found"]]) for report in reports
    )
    np.testing.assert_array_equal(exact, approximate)
    assert reports[0]["recall_of_10"] is None and reports[1]["recall_of_10"] == 1
    assert "the index finds 100.0% of the 10 true neighbours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["20"], "20: neither an image file, nor a key or number below 20 of --among"),
        (["gone.png"], "gone.png: neither an image file"),
        (["{data}/query.png", "3"], "3: no image file as the other queries"),
    ],
)
def test_wrong_queries_are_refused_in_one_line(data, tmp_path, capsys, words, message):
    assert search(data, tmp_path / "a.png", *(word.format(data=data) for word in words)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "a.png").exists()
    assert search(data, tmp_path / "a.txt", "3") == 2
    assert "must end in .png or .html" in capsys.readouterr().err


def test_query_files_are_encoded_in_batches(data, tmp_path, monkeypatch, make_image):
    sizes = []
    for number in range(5):
        Image.fromarray(make_image(number, 20)).save(tmp_path / f"{number}.png")
    encode = queries._encoded
    monkeypatch.setattr(
        queries, "_encoded", lambda batch, source: sizes.append(len(batch)) or encode(batch, source)
    )
    out = tmp_path / "out" / "found.png"
    assert search(data, out, str(tmp_path), "-k", "1", "--batch-size", "2") == 0
    found = json.loads(out.with_suffix(".json").read_text())["queries"]
    assert sizes == [2, 2, 1]
    assert [one["found"][0]["number"] for one in found] == list(range(5))
