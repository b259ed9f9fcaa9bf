"""Services of accelerate's trackers, by a tracker of our own in the place of theirs."""

import json
import sys
from pathlib import Path

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from PIL import Image

from mae.config.sections import Config, LogConfig
from mae.training.checkpoint.run import TRACKER_IDS, Run
from mae.training.tracking.services import SERVICES, ServiceTracker
from mae.training.tracking.tracker import Tracker


class Fake(GeneralTracker):
    """Writes what it is given to a list."""

    name = "mlflow"
    requires_logging_directory = False
    calls: list[tuple]
    lost: str

    def __init__(self, project, **options):
        super().__init__(_blank=True)
        if options["run_id"] == self.lost:
            raise LookupError("no such run")
        self.calls.append(("init", project, options))

    @property
    def tracker(self):
        return "run"

    def store_init_configuration(self, values):
        self.calls.append(("settings", values))

    def log(self, values, step=None, **kwargs):
        self.calls.append(("log", values, step))

    def finish(self):
        self.calls.append(("finish",))


@pytest.fixture
def calls(monkeypatch):
    made: list[tuple] = []
    kind = type("Kind", (Fake,), {"calls": made, "lost": "gone"})
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", kind)
    one = SERVICES["mlflow"]._replace(
        id_of=lambda tracker: "id-7",
        log_picture=lambda tracker, name, path, step: made.append((name, path.name, step)),
    )
    monkeypatch.setitem(SERVICES, "mlflow", one)
    return made


def started(folder: Path) -> tuple[Tracker, Run]:
    run = Run(folder)
    config = Config(output=str(folder), log=LogConfig(trackers=("mlflow",), project="tiles"))
    run.open(config)
    return Tracker(run, config, is_main=True), run


def test_rows_and_pictures_and_the_same_run_after_a_restart(calls, tmp_path):
    tracker, run = started(tmp_path / "photos")
    tracker.report({"step": 3, "loss": 0.5, "grad_norm": float("nan"), "names": "x"}, "")
    tracker.log_health({"step": 3, "rankme": 5.5, "knn": None})
    Image.new("RGB", (4, 4)).save(tmp_path / "panel.png")
    tracker.log_picture("panel", tmp_path / "panel.png", 3)
    tracker.close()
    (first, project, options), (second, settings), *rest = calls
    assert (first, project, second) == ("init", "tiles", "settings")
    assert options == {"run_id": None, "run_name": "photos"}
    assert settings["log.project"] == "tiles" and settings["log.trackers"] == '["mlflow"]'
    assert rest == [
        ("log", {"loss": 0.5}, 3),
        ("log", {"health/rankme": 5.5}, 3),
        ("panel", "panel.png", 3),
        ("finish",),
    ]
    assert json.loads((run.folder / TRACKER_IDS).read_text()) == {"mlflow": "id-7"}
    calls.clear()
    started(run.folder)
    assert [call[0] for call in calls] == ["init"]  # settings, which may not change, not again
    assert calls[0][2]["run_id"] == "id-7"


def test_a_run_that_the_service_has_lost_begins_anew(calls, tmp_path):
    _, run = started(tmp_path / "run")
    (run.folder / TRACKER_IDS).write_text('{"mlflow": "gone"}')
    calls.clear()
    started(run.folder)
    assert [call[0] for call in calls] == ["init", "settings"]
    assert json.loads((run.folder / TRACKER_IDS).read_text()) == {"mlflow": "id-7"}


def test_one_that_cannot_start_or_asks_for_a_login_stops_nothing(monkeypatch, tmp_path, capsys):
    class Asking(Fake):
        def __init__(self, project, **options):
            input("API key: ")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Asking)
    tracker, _ = started(tmp_path / "run")
    assert not tracker.backends
    assert "mlflow: not tracking: EOF when reading a line\n" in capsys.readouterr().err


def test_every_service_is_one_of_accelerate_and_has_a_tracker():
    own = {"wandb", "tensorboard"}
    assert own | SERVICES.keys() == LOGGER_TYPE_TO_CLASS.keys()
    names = {*own, "wandb-offline", *SERVICES}
    assert set(LogConfig.model_validate({"trackers": [*names]}).trackers) == names


@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.chdir(tmp_path)
    for step in (1, 2):
        tracker, run = started(tmp_path / "run")
        assert isinstance(tracker.backends["mlflow"], ServiceTracker)
        tracker.report({"step": step, "loss": 1 / step}, "")
        tracker.close()
    known = json.loads((run.folder / TRACKER_IDS).read_text())["mlflow"]
    history = mlflow.tracking.MlflowClient().get_metric_history(known, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 1.0), (2, 0.5)]
    assert "mlflow" in sys.modules
