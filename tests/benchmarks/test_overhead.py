"""`python -m benchmarks.overhead`: cost of guard, metrics and panels in a step."""

import json
import time

import pytest

import mae.training.step
from benchmarks import overhead
from benchmarks.overhead import bench_overhead, main, shares_of
from mae.commands.bench.timing import one_thread
from mae.config.loading import load_config
from mae.config.sections import LogConfig
from tests.runs import write_config


def test_added_time_is_measured(tmp_path, capsys, monkeypatch):
    """A slow guard is measured as a share of the step; no run folder remains."""
    config = write_config(tmp_path, "no/shards/*.tar")
    guard = mae.training.step.take_step

    def slow(optimizer, clip_grad):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return guard(optimizer, clip_grad)

    monkeypatch.setattr(mae.training.step, "take_step", slow)
    out = tmp_path / "overhead.json"
    words = [str(config), "log.every=6", "log.panel_every=100"]
    with one_thread():  # several threads wait for each other by working
        assert main([*words, "--rounds", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["every_step"] * found["step_ms"] == pytest.approx(50, rel=0.5)
    parts = found["every_step"] + found["reports"] + found["panels"]
    assert found["together"] == pytest.approx(parts)
    assert found["panels"] == pytest.approx(found["panel_ms"] / 100 / found["step_ms"])
    assert "together" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_shares_by_hand():
    """A step of 10 s, monitored 1 s more; a report of 5 s every 4 steps, no panels."""
    log = LogConfig(every=4, panel_every=0)
    found = shares_of([[10.0, 10.0], [10.0, 10.0]], [[11.0, 11.0], [11.0, 13.0]], [5.0], [7.0], log)
    assert found["step_ms"] == 10_000 and found["panels"] == 0
    assert found["every_step"] == pytest.approx(0.15)  # the median of .1 and .2
    assert found["reports"] == pytest.approx(5 / 4 / 10)
    assert found["together"] == pytest.approx(0.15 + 0.125)


def test_panels_of_any_objective_are_measured(toy, monkeypatch):
    drawn = []
    draw = overhead.draw_panel
    monkeypatch.setattr(overhead, "draw_panel", lambda *words: drawn.append(1) or draw(*words))
    config = load_config(toy, ["train.num_processes=0"])
    result = bench_overhead(config, rounds=1)
    assert len(drawn) == 2 and result["panel_ms"] > 0 and result["step_ms"] > 0
    assert json.loads(json.dumps(result))["model"].startswith("toy, ")


def test_an_objective_without_panels(classifier):
    config = load_config(classifier, ["train.batch_size=2", "log.every=2", "log.wandb=false"])
    assert bench_overhead(config, rounds=1)["panel_ms"] == 0


def test_invalid_settings_are_refused_in_a_line(classifier, capsys):
    assert main([str(classifier), "train.batch_size=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks: bench: 3 images at a time; mixup")
