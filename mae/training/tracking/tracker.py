"""What a run tells: a progress line, metrics.jsonl, wandb, TensorBoard."""

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
    """Wall time of the loop and the part of it spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.began = time.perf_counter()
        self.waited = 0.0

    def wait_for(self, iterator: Any) -> Any:
        """`next(iterator)`, counted as waiting."""
        start = time.perf_counter()
        item = next(iterator)
        self.waited += time.perf_counter() - start
        return item

    @property
    def elapsed(self) -> float:
        """Seconds in this interval."""
        return time.perf_counter() - self.began


class Backend(Protocol):
    """Where rows and pictures go, besides the run folder's own files."""

    def log(self, row: dict[str, Any], step: int) -> None:
        """A row of values by name."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file."""

    def close(self) -> None:
        """Write what is left."""


class Tracker:
    """Writes on the main process; silent on the others."""

    def __init__(self, run: Run, config: Config, is_main: bool, step: int = 0) -> None:
        """`step`: where the run goes on."""
        self.run = run
        self.is_main = is_main
        self.backends = start_backends(run, config, step) if is_main else {}
        self.lost: set[str] = set()
        self.line_open = False

    def say(self, text: str) -> None:
        """One line for the person watching."""
        if self.is_main:
            self.end_line()
            print(text, flush=True)

    def report(self, row: dict[str, Any], line: str) -> None:
        """A row of metrics: to the file, to the backends, and as the progress line."""
        if not self.is_main:
            return
        self.run.write_metrics(row)
        self._pass_on(lambda backend: backend.log(row, row["step"]))
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a wrapped line cannot be taken back
            print(f"\r\x1b[K{line[:width]}", end="", flush=True)
            self.line_open = True
        else:
            print(line, flush=True)

    def health(self, row: dict[str, Any]) -> None:
        """A measurement of the encoder's health."""
        if not self.is_main:
            return
        self.run.write_health(row)
        named = {f"health/{name}": value for name, value in row.items() if name != "step"}
        self._pass_on(lambda backend: backend.log(named, row["step"]))

    def picture(self, name: str, path: Path, step: int) -> None:
        """Hand a picture to the backends."""
        self._pass_on(lambda backend: backend.picture(name, path, step))

    def close(self) -> None:
        """End the progress line and the backends."""
        if self.is_main:
            self.end_line()
        self._pass_on(lambda backend: backend.close())

    def _pass_on(self, what: Callable[[Backend], None]) -> None:
        """An outage of a backend never stops a run; it is told once."""
        for name, backend in self.backends.items():
            try:
                what(backend)
            except Exception as error:
                if name not in self.lost:
                    self.lost.add(name)
                    self.say(f"{name}: not all is tracked from here on: {error}")

    def end_line(self) -> None:
        """What is printed next starts a line of its own."""
        if self.line_open:
            print(flush=True)
            self.line_open = False


def start_backends(run: Run, config: Config, step: int) -> dict[str, Backend]:
    """Those that the settings ask for and that work, by name."""
    backends: dict[str, Backend] = {}
    if config.log.tensorboard:
        try:
            backends["tensorboard"] = TensorboardTracker(run, step)
        except Exception as error:
            print(f"tensorboard: not tracking: {error}", file=sys.stderr, flush=True)
    if config.log.wandb and (wandb := start_wandb(run, config)):
        backends["wandb"] = wandb
    return backends
