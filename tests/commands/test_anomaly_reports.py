"""`mae anomaly`: warnings of the data, measures from masks, page and CSV."""

import csv
import json
import re

import pytest

from mae.cli import main
from tests.anomaly.surfaces import fit_words, picture, png, shard, tar_of

pytestmark = pytest.mark.usefixtures("few_patches")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six normal images score as anomalies do, and two test images are among the normal ones."""
    folder = tmp_path_factory.mktemp("surfaces")
    shard(folder / "normal.tar", 0, [0] * 24)
    shard(folder / "calibration.tar", 100, [0] * 20)
    shard(folder / "mixed.tar", 400, [0] * 26 + [1] * 6, hides_labels=True)
    shard(folder / "test.tar", 22, [0, 0, *[0] * 10, *[1] * 9], masks=True)
    tar_of(folder / "bad.tar", {"60.png": b"no image", "60.cls": b"0"})
    files = {"70.png": png(picture(70, True)), "70.cls": b"1", "70.mask.png": b"no mask"}
    tar_of(folder / "bad_mask.tar", files)
    return folder


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("detector") / "surface"
    assert main(fit_words(data, out)) == 0
    return out


def test_defects_are_localised_by_size_with_and_without_copies(data, detector, tmp_path, capsys):
    out = tmp_path / "e.json"
    words = ["anomaly", "evaluate", str(detector), "--test", f"{data}/test.tar", "--out", str(out)]
    words += ["--workers", "0"]
    assert main(words) == 0
    report, said = json.loads(out.read_text()), capsys.readouterr().out
    row = report["results"]["detector"]
    assert row["regions"] == 9 and row["aupro"] > 0.7 and row["pixel_auroc"] > 0.9
    assert row["aupro_interval"][0] <= row["aupro"] <= row["aupro_interval"][1]
    assert sum(one["images"] for one in row["by_size"].values()) == 9
    assert "AUPRO" in said and "defects by area" in said
    assert report["results"]["pixels, pca"]["regions"] == 9
    assert report["without_copies"]["detector"]["normal"] == row["normal"] - 2 == 10
    assert "--test: 2 of 21 images are among the detector's own images too (2 byte" in said
    page = (tmp_path / "e.html").read_text()
    assert page.count("<figure") == 21 and "Green: outline of the known defects" in page


def test_scores_come_as_json_csv_and_page_in_one_order(data, detector, tmp_path, capsys):
    out = tmp_path / "s.json"
    words = ["anomaly", "score", str(detector), f"{data}/test.tar", "--out", str(out)]
    assert main([*words, "--workers", "0"]) == 0
    said = capsys.readouterr()
    report = json.loads(out.read_text())
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [row["image"] for row in report["images"]]
    assert [float(row["score"]) for row in rows] == [row["score"] for row in report["images"]]
    page = (tmp_path / "s.html").read_text()
    names = re.findall(r'class="name">([^<]*)<', page)
    assert names == [row["image"] for row in report["images"]]
    assert "Above the threshold" in page and "p = 0.0476" in page
    assert not re.findall(r"(src|href)=\"(?!data:)", page) and "<script" not in page
    assert set(report["drift"]) == {"alarms", "expected", "median_p", "distance", "probability"}
    assert "p-values: median" in said.out
    assert "of 21 images are above the threshold, where normal ones give" in said.err


def test_anomalies_among_the_normal_images_are_named(data, tmp_path, capsys):
    options = ["--calibration", f"{data}/mixed.tar", "--alpha", "0.1"]
    assert main(fit_words(data, tmp_path / "d", *options)) == 0
    said = capsys.readouterr().err
    assert "warning: --calibration: 6 of 32 images score far above the others" in said
    assert "take such out, first" in said and "key 43" in said
    assert "warning: --calibration: without its 6 largest scores the threshold would be" in said


@pytest.mark.parametrize("step", [["score"], ["evaluate", "--test"]], ids=lambda step: step[0])
def test_unreadable_images_and_masks_are_budgeted_and_named(step, data, detector, tmp_path, capsys):
    out = tmp_path / "r.json"
    words = ["anomaly", step[0], str(detector), *step[1:], f"{data}/test.tar"]
    bad, bad_mask = f"{data}/bad.tar", f"{data}/bad_mask.tar"
    rest = ["--out", str(out), "--workers", "0"]
    assert main([*words, bad, *rest]) == 2
    assert "more than --max-bad = 0" in capsys.readouterr().err and not out.exists()
    is_evaluation = step[0] == "evaluate"
    if is_evaluation:
        assert main([*words, bad_mask, *rest]) == 2
        said = capsys.readouterr().err
        assert "mask not read: " in said and "1 bad masks, more than --max-bad = 0" in said
    assert main([*words, bad, bad_mask, *rest, "--max-bad", "1"]) == 0
    said, report = capsys.readouterr(), json.loads(out.read_text())
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("skipped: ")] == [
        f"skipped: {report['skipped'][0]}"
    ]
    assert ", 1 skipped" in said.out and len(report["skipped"]) == 1
    if is_evaluation:
        assert "22 test images, 1 skipped, 1 mask not read; details" in said.out
        assert f"mask not read: {report['masks_not_read'][0]}" in lines
        row = report["results"]["detector"]
        assert row["anomalous"] == 10 and row["regions"] == 9


@pytest.mark.parametrize("key", ["--normal", "--calibration"])
def test_fit_names_its_budget_of_bad_images(key, data, tmp_path, capsys):
    words = ["anomaly", "fit", str(tmp_path / "d"), "--channels", "1", "--workers", "0"]
    for one, shards in (("--normal", "normal"), ("--calibration", "calibration")):
        words += [one, f"{data}/{shards}.tar", *[f"{data}/bad.tar"] * (one == key)]
    assert main(words) == 2
    assert "more than --max-bad = 0" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["s.csv", "s.html", "s"])
@pytest.mark.parametrize("step", [["score"], ["evaluate", "--test"]], ids=lambda step: step[0])
def test_results_of_another_ending_are_refused_before_the_work(step, name, tmp_path, capsys):
    words = ["anomaly", step[0], f"{tmp_path}/none", *step[1:], "none.tar"]
    assert main([*words, "--out", f"{tmp_path}/{name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--out: {tmp_path}/{name} must end in .json" in line and not list(tmp_path.iterdir())
