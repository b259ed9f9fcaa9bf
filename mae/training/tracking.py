"""What a run tells: a progress line, metrics.jsonl, wandb."""

import os
import secrets
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from mae.config import Config
from mae.training.run import Run


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

    def health(self, row: dict[str, Any]) -> None:
        """A measurement of the encoder's health."""
        if not self.is_main:
            return
        self.run.write_health(row)
        if self.wandb is not None:
            with suppress(Exception):
                self.wandb.log({f"health/{name}": value for name, value in row.items()})

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
