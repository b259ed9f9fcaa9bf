"""Exit codes, the exit status file of a run, and its event log (events.jsonl)."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mae.base.errors import PartDone, RunFailed, SampleError, StorageError, UserError
from mae.base.output import guarded_output
from mae.base.redaction import without_secrets
from mae.base.rows import append_row, read_file

DONE, FAILED, WRONG_USE, STOPPED = 0, 1, 2, 75
"""exit codes; STOPPED: stopped early with a checkpoint, the same command resumes the run"""
FIRST_PROCESS_SECONDS = 10
"""seconds that the other processes wait so that the first one reports an error common to all"""
STATUS_FILE = "exit-status"
"""file name in the run folder"""
STATUS_VARIABLE = "MAE_EXIT_STATUS"
"""environment variable: path of a second copy of the exit status, private to one launch"""


def exit_code(work: Callable[[], int | None], program: str = "mae") -> int:
    """Run `work` and return the exit code of `program`; errors are printed to stderr.

    The code is the one that `work` returns (None: 0), 2 after a UserError, 1 after a RunFailed or
    Ctrl-C.  Training runs use `mae.training.safety.lifecycle.RunLifecycle` instead, which also
    handles stop signals, several processes and the run folder.

    Where standard output is lost (`| head -1`, a full disk) the work is done nevertheless, and the
    code is 1 instead of 0.
    """
    with guarded_output() as out:
        lost_before = out.error is not None  # the output is in a file by now
        code = _exit_code(work, program)
        out.flush()
        if code != DONE or out.error is None or lost_before:
            return code
        if not isinstance(out.error, BrokenPipeError):
            print(f"{program}: standard output: {out.error.strerror}", file=sys.stderr)
        return FAILED


def _exit_code(work: Callable[[], int | None], program: str) -> int:
    try:
        return work() or DONE
    except PartDone as done:
        if str(done):
            print(done)
        return DONE
    except UserError as error:
        if not isinstance(error, SampleError | StorageError):
            _let_first_report()
        for line in str(error).split("\n"):
            print(f"{program}: {line}", file=sys.stderr)
        return WRONG_USE
    except RunFailed as error:
        _let_first_report()
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{program}: interrupted", file=sys.stderr)
        return FAILED


def _let_first_report() -> None:
    """Wait, in all processes of a launch but the first, which reports an error common to all.

    Then the launcher ends the others.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        time.sleep(FIRST_PROCESS_SECONDS)


class ExitStatus(NamedTuple):
    """Exit status of a run: the contents of its status file."""

    code: int
    step: int | None
    """step of the newest checkpoint; None where there is none"""
    reason: str


def write_exit_status(folder: Path | None, status: ExitStatus) -> None:
    """Write `status` to `folder`/exit-status and to the file named by STATUS_VARIABLE, if set.

    The file is needed because launchers turn every exit code into 1.  `folder` is None where the
    run does not own its folder (yet).  Errors of writing are ignored.
    """
    paths = [folder / STATUS_FILE] if folder else []
    paths += [Path(os.environ[STATUS_VARIABLE])] if STATUS_VARIABLE in os.environ else []
    for path in paths:
        with suppress(OSError):  # a run without a status counts as killed
            part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            part.write_text(json.dumps(without_secrets(status._asdict())))
            part.replace(path)


def read_exit_status(path: Path) -> ExitStatus | None:
    """Read an exit status; None where the file is absent or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        row = json.loads(read_file(path))
        return ExitStatus(int(row["code"]), row["step"], str(row["reason"]))
    return None


def clear_exit_status(folder: Path) -> None:
    """Delete the exit status of the previous start; does nothing where `folder` is no run."""
    if (folder / "config.yaml").exists():
        with suppress(OSError):
            (folder / STATUS_FILE).unlink(missing_ok=True)


def append_event(folder: Path, step: int | None, event: str, reason: str) -> None:
    """Append a row to `folder`/events.jsonl; does nothing where `folder` is no run (yet)."""
    if not (folder / "config.yaml").exists():
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError):
        append_row(
            folder / "events.jsonl", {"time": now, "step": step, "event": event, "reason": reason}
        )
