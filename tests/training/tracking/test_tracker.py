import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.base.errors import UserError
from mae.base.live_line import ERASE
from mae.config.loading import load_config
from mae.config.sections import Config, LogConfig, TrackerName
from mae.training.checkpoint.run import Run
from mae.training.tracking.tracker import Clock, Tracker, require_trackers


def opened(folder: Path, *trackers: TrackerName) -> tuple[Run, Config]:
    """A run folder, and its settings."""
    run = Run(folder)
    config = Config(output=str(folder), log=LogConfig(trackers=trackers))
    run.open(config)
    return run, config


def test_clock_counts_waiting():
    def slow():
        time.sleep(0.02)
        yield 7

    clock = Clock()
    assert clock.wait_for(slow()) == 7
    assert 0.02 <= clock.waited <= clock.elapsed
    clock.restart()
    assert clock.waited == 0


def test_without_backends_there_are_the_files_and_the_line(tmp_path, capsys):
    run, config = opened(tmp_path / "run")
    tracker = Tracker(run, config, is_main=True)
    assert not tracker.backends
    tracker.report({"step": 1, "loss": 0.5}, "the line")
    tracker.log_health({"step": 1, "rankme": 3.0})
    tracker.log_picture("panel", tmp_path / "none.png", 1)
    tracker.close()
    assert capsys.readouterr().out == "the line\n"
    assert json.loads(run.metrics_file.read_text()) == {"step": 1, "loss": 0.5}
    assert json.loads(run.health_file.read_text()) == {"step": 1, "rankme": 3.0}
    assert not (run.folder / "wandb").exists() and not (run.folder / "tensorboard").exists()


def test_other_processes_are_silent(tmp_path, capsys):
    run = Run(tmp_path)
    other = Tracker(run, Config(log=LogConfig(trackers=("tensorboard",))), is_main=False)
    other.report({"step": 1}, "nothing of this")
    other.log_health({"step": 1})
    other.print_line("nor of this")
    other.close()
    assert not other.backends and not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


class Broken:
    """A backend that can do nothing."""

    def log(self, row, step):
        raise OSError(28, "No space left on device")

    def log_picture(self, name, path, step):
        raise OSError(5, "Input/output error")

    def close(self):
        raise RuntimeError("gone")


def test_a_backend_that_fails_is_reported_once_and_stops_nothing(tmp_path, capsys):
    run, config = opened(tmp_path / "run")
    tracker = Tracker(run, config, is_main=True)
    tracker.backends["broken"] = Broken()
    for step in (1, 2):
        tracker.report({"step": step}, f"line {step}")
    tracker.log_picture("panel", tmp_path, 2)
    tracker.log_health({"step": 2})
    tracker.close()
    assert capsys.readouterr().out.splitlines() == [
        "broken: tracking is incomplete from here on: [Errno 28] No space left on device",
        "line 1",
        "line 2",
    ]
    assert len(run.metrics_file.read_text().splitlines()) == 2


def test_one_whose_server_is_away_is_given_up(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(Broken):
        def log(self, row, step):
            now[0] += 25
            raise TimeoutError("no answer")

    run, config = opened(tmp_path / "run")
    tracker = Tracker(run, config, is_main=True)
    tracker.backends["slow"] = Slow()
    for step in range(4):
        tracker.report({"step": step}, "")
    assert not tracker.backends
    assert "slow: not tracking any more, after 75 s of failures" in capsys.readouterr().out


def test_a_package_that_is_missing_is_named_before_the_run(monkeypatch):
    monkeypatch.setattr("mae.training.tracking.tracker.find_spec", lambda name: None)
    require_trackers(LogConfig())  # wandb is always there
    with pytest.raises(UserError) as error:
        require_trackers(LogConfig(trackers=("mlflow", "comet_ml", "tensorboard")))
    assert str(error.value).splitlines() == [
        "log.trackers: mlflow needs its package (pip install mlflow)",
        "log.trackers: comet_ml needs its package (pip install comet-ml)",
        "log.trackers: tensorboard needs its package (pip install 'maekit[tensorboard]')",
    ]


def test_a_step_that_is_not_reported_is_counted_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    now, shown = [10.0], Terminal()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stdout", shown)
    run, config = opened(tmp_path / "run")
    tracker = Tracker(run, config, is_main=True)
    tracker.show_step(3)  # nothing was reported yet
    tracker.report({"step": 20}, "step   20/1216  loss 0.5")
    tracker.show_step(21)  # at once: not drawn
    now[0] += 1
    tracker.show_step(22)
    tracker.print_line("a message")
    drawn = shown.getvalue().replace(ERASE, "|")
    assert drawn == "|step   20/1216  loss 0.5|step   22/1216  loss 0.5\na message\n"


def scalars(folder: Path, name: str) -> dict[int, float]:
    """Values of the scalar `name` as TensorBoard reads them, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {event.step: event.value for event in shown.Scalars(name)}


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestTensorboard:
    def test_rows_health_and_panels_are_there(self, tensorboard, tmp_path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        run, config = opened(tmp_path / "run", "tensorboard")
        pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "panel.png")
        tracker = Tracker(run, config, is_main=True)
        tracker.report({"step": 3, "loss": 0.25, "grad_norm": float("nan"), "bad": 0}, "line")
        tracker.log_health({"step": 3, "rankme": 5.5, "knn": None, "images": 7})
        tracker.log_picture("panel", tmp_path / "panel.png", 3)
        tracker.close()
        shown = EventAccumulator(str(run.folder / "tensorboard")).Reload()
        assert sorted(shown.scalars.Keys()) == ["bad", "health/images", "health/rankme", "loss"]
        assert scalars(run.folder, "loss") == {3: 0.25}
        assert scalars(run.folder, "health/rankme") == {3: 5.5}
        (image,) = shown.Images("panel")
        (tmp_path / "shown.png").write_bytes(image.encoded_image_string)
        assert image.step == 3
        assert np.array_equal(np.asarray(Image.open(tmp_path / "shown.png")), pixels)

    def test_curves_do_not_double_back_after_a_kill_or_a_rollback(self, tensorboard, tmp_path):
        run, config = opened(tmp_path / "run", "tensorboard")
        for start, steps in ((0, (2, 4, 6, 8)), (4, (6, 8, 10, 7, 9))):
            tracker = Tracker(run, config, is_main=True, step=start)
            for step in steps:
                tracker.report({"step": step, "loss": start + step / 100}, "line")
            tracker.close()
        expected = {2: 0.02, 4: 0.04, 6: 4.06, 7: 4.07, 9: 4.09}
        assert scalars(run.folder, "loss") == pytest.approx(expected)

    def test_a_full_disk_stops_nothing(self, tensorboard, tmp_path):
        """A subprocess has a file size limit of 20 kB; the writer's own thread runs into it."""
        program = f"""
import resource, sys
from mae.config.sections import Config, LogConfig
from mae.training.tracking import tensorboard as tensorboard_tracker
from mae.training.checkpoint.run import Run
from mae.training.tracking.tracker import Tracker

tensorboard_tracker.FLUSH_SECONDS = 0
config = Config(output={str(tmp_path)!r}, log=LogConfig(trackers=("tensorboard",)))
run = Run(config.output)
run.open(config)
tracker = Tracker(run, config, is_main=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for step in range(1000):
    tracker._for_each_backend(lambda backend: backend.log({{"loss": 0.5, "r2": 0.5}}, step))
tracker.close()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("tensorboard: tracking is incomplete from here on: ") == 1


def test_tensorboard_that_cannot_start_stops_nothing(tmp_path, capsys):
    run, config = opened(tmp_path / "run", "tensorboard")
    (run.folder / "tensorboard").write_text("a file in the way")
    tracker = Tracker(run, config, is_main=True)
    assert not tracker.backends
    assert capsys.readouterr().err.startswith("tensorboard: not tracking: ")


def test_nothing_is_uploaded_by_default_and_a_setting_turns_all_off():
    assert Config().log.trackers == ("wandb-offline",)
    assert not load_config(None, ["data.train=x.tar", "log.trackers=[]"]).log.trackers


@pytest.mark.parametrize("recorded", ["[wandb]", "[]"])
def test_a_run_goes_on_with_the_trackers_it_was_started_with(tmp_path, recorded):
    start = load_config(None, ["data.train=x.tar", f"log.trackers={recorded}"])
    (run := Run(tmp_path / "run")).open(start)
    again = load_config(None, ["data.train=x.tar"])
    assert run.with_recorded_trackers(again).log.trackers == start.log.trackers
    typed = load_config(None, ["data.train=x.tar", "log.trackers=wandb-offline"])
    assert run.with_recorded_trackers(typed).log.trackers == ("wandb-offline",)


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path):
    run = Run(tmp_path)
    run.metrics_file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 2')
    run.rewind_metrics(2)
    assert run.metrics_file.read_text() == '{"step": 1}\n{"step": 2}\n'
