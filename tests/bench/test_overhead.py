import json
import time

import pytest

import mae.training.step
from mae.bench.overhead import shares_of
from mae.bench.timing import one_thread
from mae.cli import main
from mae.config.sections import LogConfig
from tests.runs import write_config


def test_what_is_added_is_found(tmp_path, capsys, monkeypatch):
    """A guard that takes a while shows, as a share of the step; nothing is left behind."""
    config = write_config(tmp_path, "no/shards/*.tar")
    guard = mae.training.step.take_step

    def slow(optimizer, clip_grad):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return guard(optimizer, clip_grad)

    monkeypatch.setattr(mae.training.step, "take_step", slow)
    out = tmp_path / "overhead.json"
    words = ["bench", "overhead", str(config), "log.every=6", "log.panel_every=100"]
    with one_thread():  # several wait for each other by working
        assert main([*words, "--rounds", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["every_step"] * found["step_ms"] == pytest.approx(50, rel=0.5)
    parts = found["every_step"] + found["reports"] + found["panels"]
    assert found["together"] == pytest.approx(parts)
    assert found["panels"] == pytest.approx(found["panel_ms"] / 100 / found["step_ms"])
    assert "together" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_shares_by_hand():
    """A step of 10 s, 1 s more where watched; a report of 5 s every 4 steps, no panels."""
    log = LogConfig(every=4, panel_every=0)
    found = shares_of([[10.0, 10.0], [10.0, 10.0]], [[11.0, 11.0], [11.0, 13.0]], [5.0], [7.0], log)
    assert found["step_ms"] == 10_000 and found["panels"] == 0
    assert found["every_step"] == pytest.approx(0.15)  # the median of .1 and .2
    assert found["reports"] == pytest.approx(5 / 4 / 10)
    assert found["together"] == pytest.approx(0.15 + 0.125)
