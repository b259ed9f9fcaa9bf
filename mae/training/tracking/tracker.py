"""Tracker of a run: progress line, metrics.jsonl, health.jsonl, wandb, TensorBoard."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mae.config.sections import Config
from mae.training.checkpoint.run import Run
from mae.training.tracking.tensorboard import TensorboardTracker
from mae.training.tracking.wandb import start_wandb


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
        self.failed_backends: set[str] = set()
        self.has_open_line = False

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
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a wrapped line cannot be overwritten
            print(f"\r\x1b[K{line[:width]}", end="", flush=True)
            self.has_open_line = True
        else:
            print(line, flush=True)

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
        self._for_each_backend(lambda backend: backend.close())

    def _for_each_backend(self, action: Callable[[Backend], None]) -> None:
        """Apply `action` to each backend; a failure is printed once and never ends the run."""
        for name, backend in self.backends.items():
            try:
                action(backend)
            except Exception as error:
                if name not in self.failed_backends:
                    self.failed_backends.add(name)
                    self.print_line(f"{name}: tracking is incomplete from here on: {error}")

    def end_line(self) -> None:
        """End an open progress line, so that the next output starts a new line."""
        if self.has_open_line:
            print(flush=True)
            self.has_open_line = False


def start_backends(run: Run, config: Config, step: int) -> dict[str, Backend]:
    """Start the backends that the settings ask for, by name; those that fail are reported."""
    backends: dict[str, Backend] = {}
    if config.log.tensorboard:
        try:
            backends["tensorboard"] = TensorboardTracker(run, step)
        except Exception as error:
            print(f"tensorboard: not tracking: {error}", file=sys.stderr, flush=True)
    if config.log.wandb and (wandb := start_wandb(run, config)):
        backends["wandb"] = wandb
    return backends
