"""Results with labels on the page: of a classifier, and of evaluations of frozen features."""

import json
import re

import pytest

from mae.report.page import write_report
from tests.report.folders import (
    write_classifier_run,
    write_panel,
    write_results,
    write_rows,
    write_run,
)
from tests.report.test_page import HOSTILE, Reader, report


def said(page: Reader) -> str:
    return " ".join(page.text.split())


def heads(run) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", (run / "report.html").read_text())


def test_a_classifiers_page_from_top_to_bottom(tmp_path):
    run = write_classifier_run(tmp_path / "run")
    page = said(report(run))
    assert heads(run) == [
        *("Diagnosis", "Learning", "Class by class", "Optimisation", "Speed"),
        *("Events", "Bad images", "Data", "Settings", "Commands", "Versions and hardware"),
    ]
    for words in (
        "Finished at step 2,000 of 2,000",
        "training accuracy 55%",
        "held-out accuracy 73.2%",
        "still rising",
        "chance 25%",
        "always the commonest",
        "61.9% always answering the commonest, big dog",
        "At step 2,000 right: 73.2% (68.2–77.2) of 400 images",
        "123 big dog cat",
        "Learning rate",
    ):
        assert words in page, words
    for words in ("R²", "RankMe", "panels", "k-NN", "hidden patches"):
        assert words not in page, words
    rows = re.findall(
        r"(?:big dog|cat|eel) (?=[\d.]+%)[^a-z]*", page.partition("lowest accuracy first")[2]
    )
    assert [row.split()[:2] for row in rows] == [["big", "dog"], ["cat", "90.0%"]]
    assert "90.0% 82.0–94.0 100 62.5%" in page


def test_the_confusion_matrix_is_in_the_file(tmp_path):
    run = write_classifier_run(tmp_path / "run")
    images = [attrs for tag, attrs in report(run).found if tag == "img"]
    assert [image["alt"] for image in images] == ["confusion matrix"]
    assert str(images[0]["src"]).startswith("data:image/png;base64,")
    (run / "evaluation-confusion.png").write_bytes(b"no picture")
    assert not [tag for tag, _ in report(run).found if tag == "img"]


def test_the_band_is_the_interval(tmp_path):
    run = write_classifier_run(tmp_path / "run")
    report(run)
    assert re.search(r"held-out 73% \(68% to 77%\)", (run / "report.html").read_text())


@pytest.mark.parametrize(
    "name", ["evaluation.json", "evaluation-confusion.png", "health.jsonl", "metrics.jsonl"]
)
def test_any_of_its_files_may_be_missing(tmp_path, name):
    run = write_classifier_run(tmp_path / "run")
    (run / name).unlink()
    page = said(report(run))
    if name == "evaluation.json":
        assert "Not evaluated yet: mae evaluate" in page
    if name == "health.jsonl":
        assert "Never measured on held-out images" in page


def test_what_evaluations_found_is_one_table(tmp_path):
    run = write_run(tmp_path / "run")
    report(run)
    assert "Evaluations" not in heads(run)
    write_results(run)
    page = said(report(run))
    assert "Evaluations" in heads(run)
    for words in (
        "linear probe pretrained mean 10 per class accuracy 52.7% 49.0–57.0 512 1,900",
        "linear probe raw pixels all accuracy 39.4% 36.0–43.0 512 1,900",
        "attentive probe all accuracy 61.0% 57.0–65.0 512 1,900",
        "segmentation linear pixels all mean IoU 33.3% 30.0–36.0 77",
        "segmentation linear pixels all accuracy 81.0% 80.0–82.0 77",
    ):
        assert words in page, words


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1, 2]",
        "{}",
        '{"results": 7}',
        '{"results": [7, {"accuracy": "x", "interval": 3}]}',
        '{"accuracy": NaN, "interval": [0, null], "classes": {"a": 1}, "errors": [null]}',
        json.dumps({"accuracy": 0.5, "interval": ["a", 1], "step": HOSTILE, "images": HOSTILE}),
        json.dumps({"accuracy": 0.5, "classes": [{"name": HOSTILE, "accuracy": 0.0}]}),
        json.dumps({"accuracy": 0.5, "errors": [{"class": HOSTILE, "images": [], "taken_for": 1}]}),
        json.dumps({"results": [{"encoder": HOSTILE, "accuracy": 0.5, "percent": HOSTILE}]}),
    ],
)
@pytest.mark.parametrize("kind", ["classifier", "pretraining"])
def test_results_of_any_content(tmp_path, content, kind):
    write = write_classifier_run if kind == "classifier" else write_run
    run = write(tmp_path / "run", 20)
    for name in ("evaluation", "probe", "segment"):
        (run / f"{name}.json").write_text(content)
    page = report(run)
    assert not {"script"} & {tag for tag, _ in page.found}
    assert "Diagnosis" in heads(run)


def test_a_thousand_classes_stay_readable(tmp_path):
    run = write_classifier_run(tmp_path / "run")
    found = json.loads((run / "evaluation.json").read_text())
    found["classes"] = [{"name": f"c{i}", "images": 5, "accuracy": i / 999} for i in range(1000)]
    (run / "evaluation.json").write_text(json.dumps(found))
    write_panel(run / "evaluation-confusion.png", side=1000, noise=True)
    page = said(report(run))
    assert "The first 60 of 1,000." in page and "c59 " in page and "c60 " not in page
    assert (run / "report.html").stat().st_size < 5e6


def test_rows_that_a_kill_cut_short(tmp_path):
    run = write_classifier_run(tmp_path / "run")
    row = {"step": 40, "epoch": 4, "accuracy": 0.5, "interval": [0.4]}
    write_rows(run / "health.jsonl", [row], cut='{"step": 60, "acc')
    write_report(run, run / "report.html")
