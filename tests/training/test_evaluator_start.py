"""Held-out metrics before the first step."""

import json

from mae.pretrain import main
from mae.training.evaluator import compared_with_start
from tests.runs import write_config


def test_the_start_is_evaluated_once_and_compared_with_the_end(shards, tmp_path, capsys):
    words = [str(write_config(tmp_path, shards)), f"data.val={shards}", "train.epochs=1"]
    words += ["log.health_start=true", "log.health_every=10", "optim.warmup_epochs=0.5"]
    assert main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/health.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 7]
    printed = capsys.readouterr().out
    shown = f"held out, before the first step → now: linear probe {rows[0]['probe']:.1%}"
    assert shown in printed and f"→ {rows[1]['knn']:.1%}" in printed
    assert main(words) == 0
    assert len((tmp_path / "run/health.jsonl").read_text().splitlines()) == 2


def test_worse_features_are_said():
    first, last = {"probe": 0.8, "knn": 0.5}, {"probe": 0.75, "knn": 0.6}
    lines = compared_with_start(first, last)
    assert lines[0].endswith("linear probe 80.0% → 75.0%, k-NN 50.0% → 60.0%")
    assert lines[1].startswith("warning  the features are worse") and len(lines) == 2
    assert len(compared_with_start(last, first | {"probe": 0.8})) == 1
    assert "no labels" in compared_with_start({"probe": None}, {"probe": None})[0]
