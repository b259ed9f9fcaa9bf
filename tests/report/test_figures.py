"""Charts, tiles and sections that follow from a run's objective, known or not."""

import json
import re
from pathlib import Path

import pytest
import yaml

from mae.config.sections import Config
from mae.objectives import registry
from mae.objectives.charts import Chart, Curve
from mae.report.figures import draw, learning, line, marks, usual_maximum
from mae.report.run_record import read_record
from tests.report.folders import metric_rows, write_classifier_run, write_panel, write_rows
from tests.report.folders import write_run as write_mae_run
from tests.report.test_evaluations import heads, said
from tests.report.test_page import report

FEATURES = {"rankme": 3.0, "width": 4, "spread": 0.6, "dead": 0.0, "cosine": 0.4, "images": 50}


def write_toy_run(folder: Path, objective: str = "toy") -> Path:
    """A run of an objective with two losses and two metrics."""
    folder.mkdir(parents=True)
    config = Config(output="runs/x", objective=objective).model_dump(mode="json")
    config["model"] = {"latents": 4, "beta": 0.1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = metric_rows(50)
    for row in rows:
        del row["r2"]
        row |= {"loss_error": row["loss"] - 0.01, "loss_kl": 0.01, "nats": 2.5, "usage": 0.75}
    write_rows(folder / "metrics.jsonl", rows)
    health = [{"step": row["step"], "epoch": row["epoch"], **FEATURES} for row in rows[::20]]
    write_rows(folder / "health.jsonl", [{**row, "nats": 3.0, "odd": 7.0} for row in health])
    write_panel(folder / "panels" / "step-000000100.png")
    return folder


def captions(run: Path) -> list[str]:
    return re.findall(r"<strong>(.*?)</strong>", (run / "report.html").read_text())


@pytest.fixture
def knows_toy(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")


def test_the_page_of_an_objective_follows_from_its_declaration(tmp_path, knows_toy):
    run = write_toy_run(tmp_path / "run")
    page = said(report(run))
    assert heads(run)[:6] == [
        *("Diagnosis", "Learning", "Optimisation", "Speed", "Features", "Reconstructions")
    ]
    assert captions(run)[:4] == ["Loss", "Losses by name", "KL", "Usage"]
    for words in ("KL 2.50", "usage 75%", "held-out KL 3.00", "RankMe 3", "error 0.", "kl 0.01"):
        assert words in page, words
    for words in ("R²", "accuracy", "Class by class", "masked autoencoders", "not known here"):
        assert words not in page, words
    assert "Features have not collapsed: RankMe 3 of 4" in page
    assert (
        "model. beta 0.1" not in page.partition("differ from the defaults")[2].partition("All")[0]
    )


def test_an_objective_that_is_not_known_has_all_its_columns(tmp_path):
    run = write_toy_run(tmp_path / "run", "gone")
    page = said(report(run))
    assert "objective gone: not known here" in page
    assert captions(run)[:5] == ["Loss", "Losses by name", "nats", "usage", "odd"]
    assert "training 2.5" in page and "held-out 3" in page
    assert "Features have not collapsed: RankMe 3 of 4" in page
    assert "Reconstructions" in heads(run)


@pytest.mark.parametrize("written", ["[1, 2]", "7", "../mae", '"<b>"'])
def test_an_objective_of_any_name(tmp_path, written):
    run = write_toy_run(tmp_path / "run")
    (run / "config.yaml").write_text(f"objective: {written}\n")
    assert "not known here" in said(report(run))


def test_settings_of_an_earlier_layout_are_shown_in_todays(tmp_path):
    run = write_mae_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["data"]["img_size"], config["data"]["in_chans"], config["train"]["ema"]
    config["model"] |= {"img_size": [16, 16], "in_chans": 3}
    config["finetune"] = {"num_classes": 0, "ema": 0.0}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    settings = read_record(run).settings
    assert settings["data.img_size"] == [16, 16]
    assert not [key for key in settings if key.startswith("finetune") or key == "model.in_chans"]


def test_sections_follow_from_what_is_in_the_folder(tmp_path):
    run = write_classifier_run(tmp_path / "run")
    write_panel(run / "panels" / "step-000000100.png")
    (run / "knn.json").write_text(json.dumps({"accuracy": 0.5, "test_images": 10}))
    rows = [json.loads(line) for line in (run / "health.jsonl").read_text().splitlines()]
    write_rows(run / "health.jsonl", [row | FEATURES for row in rows])
    report(run)
    assert {"Features", "Evaluations", "Panels", "Class by class"} <= set(heads(run))
    pretrained = write_mae_run(tmp_path / "mae")
    write_rows(pretrained / "health.jsonl", [])
    report(pretrained)
    assert not {"Features", "Evaluations", "Class by class"} & set(heads(pretrained))


def test_lines_that_are_compared_with_are_grey(tmp_path):
    record = read_record(write_mae_run(tmp_path / "run"))
    r2 = next(one for one in learning(record) if one.title == "R² on hidden patches")
    drawn = draw(r2, record.recorded, marks(record))
    for style in ("a", "b", "base", "base finer"):
        assert f'class="line {style}"' in drawn
    assert 'class="line c"' not in drawn


def test_a_chart_without_its_own_curves_is_not_drawn(tmp_path):
    record = read_record(write_mae_run(tmp_path / "run"))
    lines = (Curve("absent", "x"), Curve("chance", "chance", "health", is_reference=True))
    assert not draw(Chart("Nothing", lines), record.recorded, marks(record))


@pytest.mark.parametrize(("start", "top"), [(1.5, 1.5), (0.9, 0.9), (40.0, 0.8)])
def test_the_first_fall_is_on_the_axis_unless_it_flattens_the_rest(start, top):
    falling = [(float(x), 0.8 - 0.002 * (x - 11)) for x in range(11, 101)]
    curve = line([{"step": x, "loss": y} for x, y in [(5.0, start), *falling]], "loss")
    assert usual_maximum(10.0, curve) == pytest.approx(top, abs=0.005)
    after = [(101.0, 1.9), *((102.0 + i, 0.5) for i in range(200))]
    spiked = curve._replace(points=[*curve.points, *after])
    maximum = usual_maximum(10.0, spiked)
    assert maximum is not None and maximum < max(1.6, top + 0.01)
    assert usual_maximum(1000.0, curve) is None
