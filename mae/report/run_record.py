"""Records of a run folder; each file may be absent, cut off in its last line, or hold NaN."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.errors import UserError
from mae.base.exit_status import DONE, STATUS_FILE, STOPPED, ExitStatus, read_exit_status
from mae.base.rows import read_file
from mae.config.migration import fold_switches, migrate_settings
from mae.config.sections import Config
from mae.config.types import flatten
from mae.config.yaml_file import parse_yaml
from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import Row, RunRecord, number
from mae.objectives.declaration import Declaration
from mae.objectives.registry import DEFAULT, config_type, declaration

SILENT = 900
"""seconds without a new row after which a run counts as stopped, unless its rows are slower"""
CHOSEN = "auto.chosen"
"""recorded reasons of chosen settings, which are no settings"""

EVALUATIONS = ("evaluation", "probe", "probe-mae", "attentive", "fewshot", "knn", "segment")
"""names of the result files of `mae evaluate`, `mae probe` and so on, without .json"""


class Record(NamedTuple):
    """Contents of a run folder."""

    name: str
    settings: Mapping[str, Any]
    """dotted key → value; empty where config.yaml is absent or damaged"""
    declared: Declaration | None
    """declaration of its objective; None: unknown here"""
    metrics: list[Row]
    health: list[Row]
    events: list[Row]
    quarantine: list[Row]
    starts: list[Row]
    panels: list[Path]
    """step-….png, in the order of their steps"""
    evaluations: Mapping[str, Row]
    """contents of the files of EVALUATIONS"""
    confusion: Path | None
    """picture of the confusion matrix of `evaluation`"""
    exit_status: ExitStatus | None
    """exit status of the last start; None while it runs, or where it was killed"""
    written: float | None
    """time at which metrics.jsonl was last written, seconds since 1970"""
    notes: list[str]
    """files and lines that could not be read, for the reader"""

    @property
    def recorded(self) -> RunRecord:
        """Rows, settings and evaluations that a diagnosis is made of."""
        return RunRecord(self.metrics, self.health, self.settings, self.evaluations)


def cautions(record: Record) -> list[Finding]:
    """Findings on the settings, as the last start recorded them."""
    found = record.starts[-1].get("cautions") if record.starts else None
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [Finding("watch", str(row.get("text")), str(row.get("reason"))) for row in rows]


class State(NamedTuple):
    """Progress of a run."""

    word: str
    """finished, running, stopped, failed, or not started"""
    step: int
    steps: int | None
    """steps of the whole run; None: unknown"""


def read_record(folder: Path) -> Record:
    """Read the files of a run folder; raises UserError where it holds no run."""
    if not any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise UserError(f"{folder}: no run here (neither config.yaml nor metrics.jsonl)")
    notes: list[str] = []
    files = {
        name: _read_rows(folder / f"{name}.jsonl", notes)
        for name in ("metrics", "health", "events", "quarantine", "starts")
    }
    for name in ("metrics", "health"):  # of a step that was written twice the later row counts
        by_step = {number(row, "step"): row for row in files[name]}
        files[name] = [by_step[step] for step in sorted(s for s in by_step if s is not None)]
    metrics = folder / "metrics.jsonl"
    confusion = folder / "evaluation-confusion.png"
    results = {name: _read_object(folder / f"{name}.json", notes) for name in EVALUATIONS}
    settings = _read_settings(folder / "config.yaml", notes)
    return Record(
        name=folder.resolve().name,
        settings=settings,
        declared=_declared(settings, notes),
        panels=sorted((folder / "panels").glob("step-*.png")),
        evaluations={name: row for name, row in results.items() if row},
        exit_status=read_exit_status(folder / STATUS_FILE),
        confusion=confusion if confusion.is_file() else None,
        written=metrics.stat().st_mtime if metrics.is_file() else None,
        notes=notes,
        **files,
    )


def state(record: Record, now: float) -> State:
    """State of a run at time `now` (seconds since 1970): progress, and whether it runs.

    What the run itself said when it ended decides; where it said nothing, its rows.
    """
    word = record.exit_status
    ended = {DONE: "finished", STOPPED: "stopped"}.get(word.code, "failed") if word else None
    if not record.metrics:
        return State(ended or "not started", 0, None)
    last = record.metrics[-1]
    step, epoch = int(number(last, "step") or 0), number(last, "epoch")
    wanted = number(record.settings, "train.epochs")
    steps = None
    if step and epoch and wanted:
        steps = math.ceil(wanted * step / epoch - 1e-6)  # as the plan rounds, from its own numbers
    if ended or (steps is not None and step >= steps):
        return State(ended or "finished", step, steps)
    silent = now - (record.written or 0.0)
    return State(
        "running" if silent < max(SILENT, 10 * _interval(record)) else "stopped", step, steps
    )


def changed_settings(record: Record) -> dict[str, tuple[Any, Any]]:
    """Key → (default, value) of each setting that differs from its default."""
    usual = default_settings(record)
    return {
        key: (usual.get(key), value)
        for key, value in record.settings.items()
        if (key not in usual or usual[key] != value) and not key.startswith(CHOSEN)
    }


def default_settings(record: Record) -> dict[str, Any]:
    """Defaults, dotted key → value; without the objective's own where it is unknown."""
    kind = config_type(record.declared.name) if record.declared else Config
    defaults = record.declared.defaults if record.declared else {}
    return flatten(kind.model_validate(defaults).model_dump(mode="json"))


def _declared(settings: Mapping[str, Any], notes: list[str]) -> Declaration | None:
    if not settings:
        return None
    name = str(settings.get("objective", DEFAULT))
    try:
        return declaration(name)
    except UserError:
        notes.append(f"objective {name}: not known here; its figures are shown by column")
        return None


def _interval(record: Record) -> float:
    """Seconds between the last two rows, from samples and speed."""
    if len(record.metrics) < 2:
        return 0.0
    before, last = (number(row, "samples") or 0.0 for row in record.metrics[-2:])
    return (last - before) / (number(record.metrics[-1], "images_per_second") or math.inf)


def _read_rows(path: Path, notes: list[str]) -> list[Row]:
    """Lines that are JSON objects.  Damaged ones are noted, except a last line that is cut off."""
    try:
        whole = read_file(path) if os.path.lexists(path) else b""
        lines = whole.decode("utf-8", "replace").split("\n")
    except OSError as error:
        notes.append(f"{path.name}: cannot be read: {error.strerror}")
        return []
    rows, damaged = [], 0
    for place, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.strip() and place < len(lines) - 1:
            damaged += 1
    if damaged:
        notes.append(f"{path.name}: {damaged:,} damaged line{'s' * (damaged > 1)} skipped")
    return rows


def _read_object(path: Path, notes: list[str]) -> Row:
    try:
        found = json.loads(read_file(path)) if os.path.lexists(path) else {}
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        notes.append(f"{path.name}: not readable")
        return {}
    return found


def _read_settings(path: Path, notes: list[str]) -> dict[str, Any]:
    if not os.path.lexists(path):
        notes.append(f"{path.name}: absent")
        return {}
    try:
        values = parse_yaml(read_file(path))
        if isinstance(values, dict):
            with suppress(UserError):  # then as they are
                values = fold_switches(migrate_settings(values, str(path)))
            return flatten(values)
        notes.append(f"{path.name}: holds no settings")
    except (OSError, ValueError) as error:
        notes.append(f"{path.name}: not readable: {' '.join(str(error).split())}")
    return {}
