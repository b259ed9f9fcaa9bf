"""Tracker of a run: progress line, metrics.jsonl, health.jsonl, wandb, TensorBoard, services."""

import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mae.base import live_line
from mae.base.errors import UserError
from mae.base.output import print_error
from mae.base.progress import TICK, busy
from mae.base.redaction import redacted
from mae.config.migration import OFFLINE
from mae.config.sections import Config, LogConfig
from mae.training.checkpoint.run import Run
from mae.training.tracking.services import SERVICES, ServiceTracker
from mae.training.tracking.tensorboard import TensorboardTracker
from mae.training.tracking.wandb import start_wandb

MOST_LOST = 60.0
"""seconds of failed calls after which a tracker is given up"""
STEP = re.compile(r"(step )( *\d+)")
"""place of the step in a progress line"""


class Clock:
    """Wall time of an interval of the loop and the part of it spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.began = time.perf_counter()
        self.waited = 0.0

    def wait_for(self, iterator: Any) -> Any:
        """Return `next(iterator)`, its duration counted as waiting for data."""
        start = time.perf_counter()
        item = next(iterator)
        self.waited += time.perf_counter() - start
        return item

    @property
    def elapsed(self) -> float:
        """Seconds in this interval."""
        return time.perf_counter() - self.began


class Backend(Protocol):
    """Contract of a tracking service: metrics and pictures besides the files of the run folder."""

    def log(self, row: dict[str, Any], step: int) -> None:
        """Log values by name."""

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Log the PNG file `path` under `name`."""

    def close(self) -> None:
        """Flush and close."""


class Tracker:
    """Prints and records on the main process; does nothing on the others."""

    def __init__(self, run: Run, config: Config, is_main: bool, step: int = 0) -> None:
        """`step`: the step that the run resumes from; TensorBoard hides earlier rows after it."""
        self.run = run
        self.is_main = is_main
        self.backends = start_backends(run, config, step) if is_main else {}
        self.lost_seconds: dict[str, float] = {}
        """time spent in failed calls of each tracker that has failed"""
        self.line = ""
        """the last progress line"""
        self.line_at = 0.0

    def print_line(self, text: str) -> None:
        """Print one line below the progress line."""
        if self.is_main:
            self.end_line()
            print(text, flush=True)

    def report(self, row: dict[str, Any], line: str) -> None:
        """Record a row of metrics in metrics.jsonl and the backends, and print `line`."""
        if not self.is_main:
            return
        self.run.write_metrics(row)
        self._for_each_backend(lambda backend: backend.log(row, row["step"]))
        self.line, self.line_at = line, time.monotonic()
        if sys.stdout.isatty():
            live_line.draw(sys.stdout, line, self, lasts=True)
        else:
            print(line, flush=True)

    def show_step(self, step: int) -> None:
        """Show the number of a step that is not reported, on a terminal, without its numbers."""
        if self.line and time.monotonic() - self.line_at >= TICK and sys.stdout.isatty():
            line = STEP.sub(lambda found: f"{found[1]}{step:>{len(found[2])}}", self.line, count=1)
            live_line.draw(sys.stdout, line, self, lasts=True)
            self.line_at = time.monotonic()

    def log_health(self, row: dict[str, Any]) -> None:
        """Record a row of held-out metrics in health.jsonl and the backends."""
        if not self.is_main:
            return
        self.run.write_health(row)
        named = {f"health/{name}": value for name, value in row.items() if name != "step"}
        self._for_each_backend(lambda backend: backend.log(named, row["step"]))

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file to the backends."""
        self._for_each_backend(lambda backend: backend.log_picture(name, path, step))

    def close(self) -> None:
        """End the progress line and close the backends."""
        if self.is_main:
            self.end_line()
        with busy("closing the trackers") if self.backends else nullcontext():
            self._for_each_backend(lambda backend: backend.close())

    def _for_each_backend(self, action: Callable[[Backend], None]) -> None:
        """Apply `action` to each backend; a failure is printed once and never ends the run.

        One that has taken MOST_LOST seconds of failed calls is not called any more.
        """
        for name, backend in list(self.backends.items()):
            start = time.monotonic()
            try:
                action(backend)
            except Exception as error:
                if name not in self.lost_seconds:
                    self.print_line(f"{name}: tracking is incomplete from here on: {error}")
                lost = self.lost_seconds.get(name, 0.0) + time.monotonic() - start
                self.lost_seconds[name] = lost
                if lost > MOST_LOST:
                    self.print_line(
                        f"{name}: not tracking any more, after {lost:.0f} s of failures"
                    )
                    del self.backends[name]

    def end_line(self) -> None:
        """End an open progress line, so that the next output starts a new line."""
        live_line.clear()


def start_backends(run: Run, config: Config, step: int) -> dict[str, Backend]:
    """Start the trackers that the settings name; those that fail are reported."""
    backends: dict[str, Backend] = {}
    for name in dict.fromkeys(config.log.trackers):
        with busy(f"starting {name}"):
            if name in ("wandb", OFFLINE):
                if "wandb" in config.log.trackers and name == OFFLINE:
                    continue  # one run of both names
                backend = start_wandb(run, config, offline=name == OFFLINE)
            else:
                backend = _start(name, run, config, step)
        if backend is not None:
            backends[name] = backend
    return backends


def _start(name: str, run: Run, config: Config, step: int) -> Backend | None:
    """Start a tracker; None, and a line, where that fails."""
    try:
        if name == "tensorboard":
            return TensorboardTracker(run, step)
        return ServiceTracker(name, run, config)
    except Exception as error:
        reason = " ".join(redacted(str(error)).split()) or repr(error)
        print_error(f"{name}: not tracking: {reason}")
        return None


def require_trackers(log: LogConfig) -> None:
    """Raise UserError, one line for each, where the packages of trackers are not installed."""
    packages = {name: (one.module, one.package) for name, one in SERVICES.items()}
    packages["tensorboard"] = "tensorboard", "'maekit[tensorboard]'"
    missing = [
        f"log.trackers: {name} needs its package (pip install {packages[name][1]})"
        for name in dict.fromkeys(log.trackers)
        if name in packages and find_spec(packages[name][0]) is None
    ]
    if missing:
        raise UserError("\n".join(missing))
