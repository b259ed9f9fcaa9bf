import json
import time

import pytest

from mae.config import Config, LogConfig
from mae.training.run import Run
from mae.training.tracking import Clock, Tracker, duration


def test_clock_counts_waiting():
    def slow():
        time.sleep(0.02)
        yield 7

    clock = Clock()
    assert clock.wait_for(slow()) == 7
    assert 0.02 <= clock.waited <= clock.elapsed
    clock.restart()
    assert clock.waited == 0


def test_the_same_wandb_run_offline_without_a_login(tmp_path, monkeypatch):
    """Two starts of one run folder are one run of wandb; nobody is logged in here."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run(tmp_path / "run")
    config = Config(output=str(run.folder))
    run.open(config)
    ids = []
    for step in (1, 2):
        tracker = Tracker(run, config, is_main=True)
        assert tracker.wandb is not None
        ids.append(tracker.wandb.id)
        assert tracker.wandb.settings.mode == "offline"
        tracker.report({"step": step, "loss": 1.0}, "line")
        tracker.close()
    assert ids[0] == ids[1] == (run.folder / "wandb-id").read_text()
    assert len(list((run.folder / "wandb").glob("offline-run-*"))) >= 1
    assert [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()] == [
        1,
        2,
    ]


def test_a_tracker_that_fails_never_stops_the_run(tmp_path, monkeypatch, capsys):
    import wandb

    def unreachable(**settings):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", unreachable)
    run = Run(tmp_path / "run")
    config = Config(output=str(run.folder))
    run.open(config)
    tracker = Tracker(run, config, is_main=True)
    tracker.report({"step": 1}, "the line")
    tracker.close()
    printed = capsys.readouterr()
    assert "wandb: not tracking: no route to host" in printed.err
    assert "the line" in printed.out
    assert run.metrics_file.read_text() == '{"step": 1}\n'


def test_wandb_is_off_by_a_setting_and_on_other_processes(tmp_path):
    run = Run(tmp_path)
    assert Tracker(run, Config(log=LogConfig(wandb=False)), is_main=True).wandb is None
    other = Tracker(run, Config(), is_main=False)
    other.report({"step": 1}, "nothing of this")
    other.close()
    assert other.wandb is None and not list(tmp_path.iterdir())


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path):
    run = Run(tmp_path)
    run.metrics_file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 2')
    run.rewind_metrics(2)
    assert run.metrics_file.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
