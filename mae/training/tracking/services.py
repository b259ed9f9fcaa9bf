"""Trackers of accelerate: MLflow, Aim, Comet, ClearML, DVCLive, SwanLab, Trackio.

What a service calls its run is kept in the run folder, so that the next start continues it.
"""

import contextlib
import inspect
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from mae.base.files import read_json, write_json
from mae.base.redaction import without_secrets
from mae.config.sections import Config
from mae.config.types import flatten
from mae.training.checkpoint.run import TRACKER_IDS, Run

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "COMET_LOGGING_CONSOLE": "ERROR",
}
"""environment variables, where they are not set: a server that is away must not hold up a run"""


class Service(NamedTuple):
    """Start, continuation and pictures of a service."""

    package: str
    """its name for pip; its module is `module`"""
    module: str
    options: Callable[[Run, str, str | None], dict[str, Any]]
    """(run, project, id of the run that is continued or None) → arguments of accelerate's class"""
    id_of: Callable[[Any], str | None]
    """accelerate's tracker, started → what to continue it by; None: nothing"""
    log_picture: Callable[[Any, str, Path, int], object]
    """(accelerate's tracker, name, PNG file, step)"""


def _mlflow_picture(tracker: Any, name: str, path: Path, step: int) -> None:
    import_module("mlflow").log_artifact(str(path), f"{name}s")


def _trackio_picture(tracker: Any, name: str, path: Path, step: int) -> None:
    image = import_module("trackio").Image(str(path))
    tracker.tracker.log({name: image}, step=step)


def _opened(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def _comet_options(run: Run, project: str, known: str | None) -> dict[str, Any]:
    # Neither code nor command lines, which may hold secrets: starts.jsonl has the commit.
    off = ("log_code", "log_git_metadata", "log_git_patch", "parse_args", "auto_output_logging")
    config = import_module("comet_ml").ExperimentConfig
    settings = config(name=run.folder.name, **dict.fromkeys(off, False))
    return {"experiment_config": settings} | ({"experiment_key": known} if known else {})


def _clearml_options(run: Run, project: str, known: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"project_name": project, "task_name": run.folder.name}
    off = ("auto_connect_frameworks", "auto_connect_arg_parser", "auto_connect_streams")
    options |= dict.fromkeys(off, False)
    return options | ({"continue_last_task": known} if known else {"reuse_last_task_id": False})


def _swanlab_options(run: Run, project: str, known: str | None) -> dict[str, Any]:
    known_names = inspect.signature(import_module("swanlab").init).parameters
    is_new = "log_dir" in known_names  # from version 0.8 on
    name, folder = ("name", "log_dir") if is_new else ("experiment_name", "logdir")
    options: dict[str, Any] = {name: run.folder.name, folder: str(run.folder / "swanlab")}
    has_login = "SWANLAB_API_KEY" in os.environ or "SWANLAB_MODE" in os.environ
    if not (has_login or Path("~/.swanlab").expanduser().exists()):
        return {**options, "mode": "offline"}  # where runs are not continued
    return {**options, "id": known or secrets.token_hex(10), "resume": "allow"}


def _dvclive_options(run: Run, project: str, known: str | None) -> dict[str, Any]:
    options = {"dir": str(run.folder / "dvclive"), "resume": known is not None}
    return {**options, "report": None, "save_dvc_exp": False, "dvcyaml": None}


SERVICES = {
    "aim": Service(
        "aim",
        "aim",
        lambda run, project, known: {
            "run_hash": known,
            "experiment": project,
            "capture_terminal_logs": False,
        },
        lambda tracker: tracker.tracker.hash,
        lambda tracker, name, path, step: tracker.log_images({name: _opened(path)}, step=step),
    ),
    "clearml": Service(
        "clearml",
        "clearml",
        _clearml_options,
        lambda tracker: tracker.tracker.id,
        lambda tracker, name, path, step: tracker.log_images({name: _opened(path)}, step=step),
    ),
    "comet_ml": Service(
        "comet-ml",
        "comet_ml",
        _comet_options,
        lambda tracker: tracker.tracker.get_key(),
        lambda tracker, name, path, step: tracker.tracker.log_image(str(path), name, step=step),
    ),
    "dvclive": Service(
        "dvclive",
        "dvclive",
        _dvclive_options,
        lambda tracker: "dvclive",
        lambda tracker, name, path, step: tracker.tracker.log_image(
            f"{name}/{step}.png", _opened(path)
        ),
    ),
    "mlflow": Service(
        "mlflow",
        "mlflow",
        lambda run, project, known: {"run_id": known, "run_name": run.folder.name},
        lambda tracker: tracker.tracker.info.run_id,
        _mlflow_picture,
    ),
    "swanlab": Service(
        "swanlab",
        "swanlab",
        _swanlab_options,
        lambda tracker: tracker.init_kwargs.get("id"),
        lambda tracker, name, path, step: tracker.log_images({name: [_opened(path)]}, step=step),
    ),
    "trackio": Service(
        "trackio",
        "trackio",
        lambda run, project, known: {"name": run.folder.name, "resume": "allow"},
        lambda tracker: None,
        _trackio_picture,
    ),
}
"""trackers of accelerate beside wandb and tensorboard, which have modules of their own"""


class ServiceTracker:
    """Run of a service, through accelerate's tracker of it."""

    def __init__(self, name: str, run: Run, config: Config) -> None:
        """Start the service's run, or continue the one that an earlier start began.

        Raises whatever the service raises.  It is never asked for a login on the terminal.
        """
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        self.service = SERVICES[name]
        file = run.folder / TRACKER_IDS
        known = read_json(file).get(name)
        project = config.log.project
        with _without_input():
            try:
                self.tracker = self._start(name, run, project, known)
            except Exception:
                if known is None:
                    raise
                known, self.tracker = None, self._start(name, run, project, None)
        if known is None:
            if (own := self.service.id_of(self.tracker)) is not None:
                write_json(file, {**read_json(file), name: own})
            self.tracker.store_init_configuration(_settings(config))

    def _start(self, name: str, run: Run, project: str, known: str | None) -> Any:
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        places = [os.environ.get("AIM_REPO", ".")] if kind.requires_logging_directory else []
        tracker = kind(project, *places, **self.service.options(run, project, known))
        if "start" in dir(kind):  # absent in early versions, which started at once
            tracker.start()
        return tracker

    def log(self, row: dict[str, Any], step: int) -> None:
        """Log the finite numbers of a row by name; other values are ignored."""
        numbers = {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step" and math.isfinite(value)
        }
        self.tracker.log(numbers, step=step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""
        self.service.log_picture(self.tracker, name, path, step)

    def close(self) -> None:
        """Flush and close."""
        self.tracker.finish()


def _settings(config: Config) -> dict[str, Any]:
    """Settings by dotted key; lists as JSON, since some services take plain values alone."""
    values = flatten(without_secrets(config.model_dump(mode="json")))
    plain = (bool, int, float, str)
    return {
        key: value if isinstance(value, plain) else json.dumps(value)
        for key, value in values.items()
    }


@contextlib.contextmanager
def _without_input() -> Iterator[None]:
    """Context in which questions on the terminal find no answer, and fail at once."""
    before = sys.stdin
    with Path(os.devnull).open() as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before
