"""Run folder: its settings, files and lock.

config.yaml  init.json  classes.txt  run-id
metrics.jsonl  events.jsonl  starts.jsonl  health.jsonl  quarantine.jsonl  exit-status
checkpoints/  panels/  frozen/  wandb/  tensorboard/  dvclive/  swanlab/  trackers.json
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from mae.base.errors import RunFailed, UserError
from mae.base.files import new_file, run_folder
from mae.base.locks import lock_alone
from mae.base.rows import append_row, read_rows, repair_rows, set_aside, write_lines
from mae.config.loading import config_as_recorded, dump_config, recorded_config
from mae.config.sections import Config
from mae.config.validation import changed_settings
from mae.training.checkpoint.checkpoint_files import (
    RUN_ID,
    checkpoints,
    foreign_folder,
    read_run_id,
    step_of,
)

ROW_FILES = ("metrics.jsonl", "health.jsonl", "events.jsonl", "starts.jsonl", "quarantine.jsonl")
TRACKER_IDS = "trackers.json"
"""file with what the services of log.trackers call this run"""
RECORD_FILES = ("exit-status", "wandb-id", TRACKER_IDS, "init.json", "classes.txt", "report.html")
RECORD_FOLDERS = ("panels", "wandb", "tensorboard", "dvclive", "swanlab")
"""record of a run beside its checkpoints"""


class Run:
    """Paths of a run folder, and operations on its files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.config_part = self.folder / "config.tmp"
        self.lock_file = self.folder / "lock"
        self.metrics_file = self.folder / "metrics.jsonl"
        self.health_file = self.folder / "health.jsonl"
        self.starts_file = self.folder / "starts.jsonl"
        self.quarantine_file = self.folder / "quarantine.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.panels = self.folder / "panels"
        self.id = ""
        """id of the run, as in its folder and checkpoints; empty before `open` or `resume`"""
        self.lock: int | None = None
        """descriptor of the locked file"""
        self.is_open = False
        """the main process has created and locked the folder for this run"""

    def check(self, config: Config) -> list[str]:
        """Check that the folder is new, empty, or holds a run with these settings.

        Returns messages on settings that differ and are allowed to change.  Raises UserError
        where the folder cannot be used, or holds a run with other settings.
        """
        if not self.folder.exists():
            parent = next(p for p in self.folder.resolve().parents if p.exists())
            if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
                raise UserError(f"output: {self.folder} cannot be made: {parent} is not writable")
            return []
        if not self.folder.is_dir():
            raise UserError(f"output: {self.folder} is a file, not a folder")
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UserError(f"output: {self.folder} is not writable")
        if self.config_file.exists():
            fixed, free = changed_settings(config_as_recorded(self.folder), config)
            if fixed:
                raise UserError(
                    f"output: {self.folder} holds a run with other settings; nothing was changed. "
                    "Choose another output=, or go back to:\n  " + "\n  ".join(fixed)
                )
            return [f"changed: {line}" for line in free]
        elif set(self.folder.iterdir()) - {self.config_part, self.lock_file}:
            raise UserError(f"output: {self.folder} is not empty and holds no run")
        return []

    def with_recorded_trackers(self, config: Config) -> Config:
        """Settings with the trackers that the folder has recorded, where none are given.

        A run goes on as it was started, whatever the default is by then: nothing is uploaded
        that was not, and what was uploaded goes on.
        """
        if "trackers" in config.log.model_fields_set or not self.config_file.exists():
            return config
        trackers = config_as_recorded(self.folder).log.trackers
        return config.model_copy(
            update={"log": config.log.model_copy(update={"trackers": trackers})}
        )

    def open(self, config: Config) -> list[str]:
        """Create and lock the folder and record the settings; UserError where that fails.

        Record files that are damaged or not readable are set aside; returns messages on them.
        """
        try:
            # The settings first: after a kill they identify the folder as this run's.
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            notes = self._repair_records()
            recorded = dump_config(config)
            if not self.config_file.exists() or self.config_file.read_text() != recorded:
                with self.config_part.open("w") as file:
                    file.write(recorded)
                    file.flush()
                    os.fsync(file.fileno())
                self.config_part.replace(self.config_file)
            self.id = self._read_or_make_id()
            self.checkpoints.mkdir(exist_ok=True)
            self.panels.mkdir(exist_ok=True)
            return notes
        except OSError as error:
            raise UserError(f"output: {self.folder} cannot be written: {error.strerror}") from None

    def _lock(self) -> None:
        """Lock the folder, so that a job submitted twice runs once."""
        self.lock = file = os.open(self.lock_file, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            lock_alone(file)
        except BlockingIOError:
            raise UserError(f"output: {self.folder} is in use by another process") from None
        except OSError:  # some network file systems have no locks: continue without
            pass

    def close(self) -> None:
        """Unlock the folder, as the end of the process does."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def _read_or_make_id(self) -> str:
        """Id in the folder; made where there is none, as in folders of earlier versions."""
        if known := read_run_id(self.folder):
            return known
        with new_file(self.folder / RUN_ID) as part:
            part.write_text(new := secrets.token_hex(8))
        return new

    def is_own(self) -> bool:
        """True while the folder is this run's: not removed, nor made anew by another process.

        A lock does not show that: it stays with the removed file.
        """
        return not self.id or read_run_id(self.folder) == self.id

    def _append(self, file: Path, row: dict[str, Any]) -> None:
        if not self.is_own():
            raise RunFailed(foreign_folder(self.folder))
        append_row(file, row)

    def _repair_records(self) -> list[str]:
        """Set aside what is damaged of the record files: they must never stop a run."""
        notes = [repair_rows(self.folder / name) for name in ROW_FILES]
        for name in RECORD_FILES:
            path = self.folder / name
            if os.path.lexists(path) and not path.is_file():
                notes.append(set_aside(path, "is no file"))
        for name in RECORD_FOLDERS:
            path = self.folder / name
            if os.path.lexists(path) and not path.is_dir():
                notes.append(set_aside(path, "is no folder"))
        return [note for note in notes if note]

    def config(self) -> Config:
        """Read the recorded settings, those of a call at their defaults; raises UserError."""
        return recorded_config(self.folder)

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint, damaged or not; None without checkpoints."""
        return max(map(step_of, checkpoints(self.checkpoints)), default=None)

    def write_metrics(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        self._append(self.metrics_file, row)

    def write_health(self, row: dict[str, Any]) -> None:
        """Append a row to health.jsonl."""
        self._append(self.health_file, row)

    def write_start(self, row: dict[str, Any]) -> None:
        """Append a row to starts.jsonl: the environment of this start."""
        self._append(self.starts_file, row)

    def last_start(self) -> dict[str, Any]:
        """Read the last intact row of starts.jsonl; empty where there is none."""
        with suppress(OSError):
            return next(reversed(read_rows(self.starts_file).rows), {})
        return {}

    def rewind_metrics(self, step: int) -> None:
        """Delete the rows of metrics and health after `step`; a resumed run writes them again."""
        for path in (self.metrics_file, self.health_file):
            if not path.exists():
                continue
            kept = []
            found = read_rows(path)
            for line, row in zip(found.lines, found.rows, strict=True):
                if isinstance(row.get("step"), int | float) and row["step"] <= step:
                    kept.append(line)
            write_lines(path, kept)

    def last_metrics(self) -> dict[str, Any]:
        """Read the last row of metrics.jsonl; empty where there is none."""
        return next(reversed(read_rows(self.metrics_file).rows), {})

    def first_health(self) -> dict[str, Any]:
        """Read the row of health.jsonl from before the first step; empty where there is none."""
        first = next(iter(read_rows(self.health_file).rows), {})
        return first if first.get("step") == 0 else {}

    def last_health(self) -> dict[str, Any]:
        """Read the last row of health.jsonl; empty where there is none."""
        return next(reversed(read_rows(self.health_file).rows), {})


def find_run(folder: str | Path) -> Run:
    """Return the run whose folder, or one of whose checkpoint folders, is `folder`."""
    return Run(run_folder(Path(folder)))
