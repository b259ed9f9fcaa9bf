"""The page on several runs: curves over each other, settings that differ, evaluations."""

import json
import re
import shutil

import pytest
import yaml

from mae.cli import main
from mae.config.types import flatten
from mae.objectives.registry import OBJECTIVES, config_type, declaration
from mae.report.comparison import labels, write_comparison
from tests.report.folders import write_classifier_run, write_rows, write_run
from tests.report.test_page import Reader


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ in a setting."""
    first = write_run(tmp_path / "one" / "photos")
    second = write_run(tmp_path / "two" / "photos", seed=7)
    result = {"encoder": "pretrained", "feature": "mean", "accuracy": 0.525}
    probe = {"results": [{**result, "interval": [0.51, 0.54]}]}
    (first / "probe.json").write_text(json.dumps(probe))
    return [first, second]


def test_runs_beside_each_other(runs, tmp_path, capsys):
    assert main(["report", *map(str, runs)]) == 0
    out = tmp_path / "one" / "comparison.html"
    assert capsys.readouterr().out == f"{out}\n"
    page = Reader(out.read_text())
    heads = re.findall(r"<h2>(.*?)</h2>", out.read_text())
    assert heads == [
        "Runs",
        "Settings that differ",
        "Learning",
        "Optimisation and speed",
        "Features",
        "Evaluations",
        "Last panels",
        "Commands",
    ]
    assert "one/photos" in page.text and "two/photos" in page.text
    assert "train. seed" in page.text and "train. epochs" not in page.text
    assert "optimizer steps" in page.text
    assert "52.5% (51.0–54.0)" in page.text
    loss = re.search(r"<svg[^>]*Loss.*?</svg>", out.read_text(), re.DOTALL)
    assert loss and 'class="line a"' in loss[0] and 'class="line b"' in loss[0]
    assert not any(tag == "script" for tag, _ in page.found)


def test_curves_of_other_batches_go_by_images(runs, tmp_path):
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    write_rows(runs[1] / "metrics.jsonl", [row | {"samples": row["samples"] // 2} for row in rows])
    page = write_comparison(runs, tmp_path / "out.html").read_text()
    assert "images seen: the runs have different batches" in page
    # Half the images are half the width of the chart.
    (first, second) = re.findall(r'<path d="M([^Z"]*)" class="line [ab]"', page)[:2]
    ends = [float(path.split("L")[-1].split()[0]) for path in (first, second)]
    assert ends == pytest.approx([1000, 500], abs=1)


def test_runs_of_other_objectives_and_damaged_ones(runs, tmp_path):
    other = write_classifier_run(tmp_path / "three" / "labels")
    (runs[1] / "config.yaml").write_text("no: [settings")
    page = write_comparison([*runs, other], tmp_path / "out.html").read_text()
    assert "the runs differ in objective (mae, classifier)." in Reader(page).text
    assert "Accuracy, held-out" in page and "R², held-out" in page
    assert "two/photos: config.yaml: not readable" in Reader(page).text


def with_settings(folder, **model):
    """The run with other settings of its model."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] |= model
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, ""),
        ({"decoder_depth": 2}, ""),
        ({"patch_size": 16}, ""),  # as in the name of the other's encoder
        ({"mask_ratio": 0.5}, "the runs differ in model.mask_ratio (0.75, 0.5)."),
        (
            {"patch_size": 32, "norm_pix_loss": False},
            "the runs differ in model.patch_size (16, 32), model.norm_pix_loss (true, false).",
        ),
    ],
)
def test_losses_that_do_not_compare_are_named(runs, tmp_path, model, words):
    with_settings(runs[1], **model)
    page = Reader(write_comparison(runs, tmp_path / "out.html").read_text())
    assert ("The losses do not compare" in page.text) == bool(words)
    assert words in page.text


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_that_define_a_loss_exist(name):
    settings = flatten(config_type(name)(output="runs/x").model_dump(mode="json"))
    declared = declaration(name)
    assert set(declared.loss_settings) <= settings.keys()
    assert declared.loss_definition(settings).keys() == set(declared.loss_settings)


def test_what_cannot_be_compared(runs, tmp_path, capsys):
    assert main(["report", str(runs[0]), str(runs[0])]) == 2
    assert main(["report", str(runs[0]), str(tmp_path)]) == 2
    many = [runs[0]]
    for number in range(8):
        many.append(shutil.copytree(runs[0], tmp_path / f"copy{number}"))
    assert main(["report", *map(str, many)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "mae: report: a run is given twice"
    assert "no run here" in lines[1]
    assert lines[2] == "mae: report: 9 runs; at most 8 go on one page"


def test_labels_are_as_short_as_they_can_be(tmp_path):
    assert labels([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert labels([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]
