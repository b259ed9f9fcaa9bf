"""What a run tells: a progress line, metrics.jsonl, wandb."""

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mae.config import Config
from mae.objective import Output
from mae.training.run import Run


class Totals(NamedTuple):
    """Means since the last report, over all processes."""

    loss: float
    r2: float
    """1 - loss / variance of the target: the share of it that is explained"""
    micro_batches: int
    """of each process"""


class Meter:
    """Adds up on the device, without ever waiting for it; `read` is the only synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device, dtype=torch.float64)
        self.count = 0

    def add(self, output: Output) -> None:
        """Include one micro-batch."""
        self.sums += torch.stack([output.loss.detach(), output.target_mean, output.target_square])
        self.count += 1

    def read(self, mean_over_processes: Callable[[Tensor], Tensor]) -> Totals:
        """The means, then start again."""
        loss, mean, square = (mean_over_processes(self.sums) / self.count).tolist()
        totals = Totals(loss, 1 - loss / max(square - mean**2, 1e-12), self.count)
        self.sums.zero_()
        self.count = 0
        return totals


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


class Tracker:
    """Writes on the main process; silent on the others."""

    def __init__(self, run: Run, config: Config, is_main: bool) -> None:
        self.run = run
        self.is_main = is_main
        self.wandb = start_wandb(run, config) if is_main and config.log.wandb else None
        self.line_open = False

    def say(self, text: str) -> None:
        """One line for the person watching."""
        if self.is_main:
            self._end_line()
            print(text, flush=True)

    def report(self, row: dict[str, Any], line: str) -> None:
        """A row of metrics: to the file, to wandb, and as the progress line."""
        if not self.is_main:
            return
        self.run.write_metrics(row)
        if self.wandb is not None:
            with suppress(Exception):  # an outage of the tracker never stops a run
                self.wandb.log(row, step=row["step"])
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a wrapped line cannot be taken back
            print(f"\r\x1b[K{line[:width]}", end="", flush=True)
            self.line_open = True
        else:
            print(line, flush=True)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Hand a picture to wandb."""
        if self.is_main and self.wandb is not None:
            with suppress(Exception):
                import wandb

                self.wandb.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """End the progress line and the wandb run."""
        if self.is_main:
            self._end_line()
        if self.wandb is not None:
            with suppress(Exception):
                self.wandb.finish(quiet=True)

    def _end_line(self) -> None:
        if self.line_open:
            print(flush=True)
            self.line_open = False


def start_wandb(run: Run, config: Config) -> Any:
    """The wandb run of this folder, the same one after a restart; None where wandb fails.

    Online with a login, else offline; WANDB_MODE is heeded.  Its id is the file `wandb-id`.
    """
    try:
        import wandb

        id_file = run.folder / "wandb-id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))

        def init(mode: Literal["online", "offline"]) -> Any:
            return wandb.init(
                mode=mode,
                project=config.log.project,
                name=run.folder.name,
                id=id_file.read_text().strip(),
                resume="allow",
                dir=run.folder,
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off", init_timeout=60),
            )

        chosen = os.environ.get("WANDB_MODE")
        if chosen == "disabled":
            return None
        if chosen == "offline" or not wandb.login(prompt=False, verify=False):
            return init("offline")
        try:
            return init("online")
        except Exception as error:
            print(f"wandb: offline from here: {error}", file=sys.stderr)
            return init("offline")
    except Exception as error:
        print(f"wandb: not tracking: {error}", file=sys.stderr)
        return None


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
