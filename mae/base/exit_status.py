"""What a run leaves behind for whoever watches over it: exit codes, last words, rows of events."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mae.base.errors import RunFailed, UserError

DONE, FAILED, WRONG_USE, STOPPED = 0, 1, 2, 75
"""Exit codes; stopped: early, with a checkpoint, and the same command continues."""
STATUS_FILE = "exit-status"
STATUS_VARIABLE = "MAE_EXIT_STATUS"
"""environment: a file of one launch alone, for the same word as STATUS_FILE"""


def exit_code(work: Callable[[], int | None], program: str = "mae") -> int:
    """Do `work`, whose own code counts; print why it failed: 1 failed, 2 wrong use.

    Runs have `mae.training.start.Ending`, which knows signals, processes and run folders, too.
    """
    try:
        return work() or DONE
    except UserError as error:
        for line in str(error).splitlines():
            print(f"{program}: {line}", file=sys.stderr)
        return WRONG_USE
    except RunFailed as error:
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return FAILED


class ExitStatus(NamedTuple):
    """How a run says that it ended."""

    code: int
    step: int | None
    reason: str


def record_exit(folder: Path | None, word: ExitStatus) -> None:
    """Leave `word` in `folder`/exit-status and for the supervisor, if there is one.

    Launchers turn every exit code into 1.  `folder` is None where it is not this run's own (yet).
    """
    paths = [folder / STATUS_FILE] if folder else []
    paths += [Path(os.environ[STATUS_VARIABLE])] if STATUS_VARIABLE in os.environ else []
    for path in paths:
        with suppress(OSError):  # no word is a word too: the run is taken for killed
            part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            part.write_text(json.dumps(word._asdict()))
            part.replace(path)


def read_exit(path: Path) -> ExitStatus | None:
    """The word in a file; None where there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        row = json.loads(path.read_text())
        return ExitStatus(int(row["code"]), row["step"], str(row["reason"]))
    return None


def forget_exit(folder: Path) -> None:
    """Take the last word back at a start; nothing where `folder` holds no run."""
    if (folder / "config.yaml").exists():
        with suppress(OSError):
            (folder / STATUS_FILE).unlink(missing_ok=True)


def append_event(folder: Path, step: int | None, event: str, reason: str) -> None:
    """One more row of `folder`/events.jsonl; nothing where `folder` holds no run (yet)."""
    if not (folder / "config.yaml").exists():
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError):
        append_row(
            folder / "events.jsonl", {"time": now, "step": step, "event": event, "reason": reason}
        )


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One more line of JSON, below one that a kill has cut off; raises OSError.

    Numbers that are not finite become null: JSON has no word for them.
    """
    text = json.dumps(_finite(row), allow_nan=False)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        cut_off = file.read() not in (b"", b"\n")
        file.write(b"\n" * cut_off + text.encode() + b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
