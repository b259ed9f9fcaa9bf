"""Output folder that is filled over several attempts and appears only when complete."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mae.base.errors import RunFailed, UserError
from mae.base.files import discard, sync

PLAN = "plan"
"""file with the digest of the plan that the work so far belongs to"""
LOCK = "lock"
LOCK_TIMEOUT = 5.0
"""seconds to wait for another process to release the lock"""


@contextmanager
def unfinished_folder(out: Path, log: Callable[[str], None]) -> Iterator[Path]:
    """Folder `.NAME.part` beside `out`, with earlier attempts' files; renamed to `out` at the end.

    After a failure or an interruption its files are kept, from `start_or_resume` on, and the next
    attempt resumes there; `log` receives a line on it.
    Raises UserError where `out` is not empty, cannot be written, or is being written by another
    process.
    """
    if not out.name:
        raise UserError(f"{out}: write the name of a new folder")
    _require_new(out)
    part = out.with_name(f".{out.name}.part")
    kept = f"{part} keeps the finished part: run the same command again to resume"
    try:
        part.mkdir(parents=True, exist_ok=True)
        with (part / LOCK).open("w") as lock:
            _lock(lock.fileno(), out)
            if not (part / LOCK).exists():  # the process that held it has renamed the folder
                raise UserError(f"{out}: was just written by another process")
            try:
                yield part
            finally:
                if not (part / PLAN).exists():
                    discard(part)
            for name in (PLAN, LOCK):
                (part / name).unlink()
            sync(part)
            if out.exists():
                out.rmdir()
            part.rename(out)
            sync(out.parent)
    except OSError as error:
        kept = f"; {kept}" if part.exists() else ""
        raise UserError(f"{out}: cannot be written: {error.strerror or error}{kept}") from None
    except (UserError, RunFailed, KeyboardInterrupt):
        if part.exists():
            log(kept)
        raise


def _require_new(out: Path) -> None:
    """Raise UserError unless `out` is new or an empty folder."""
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; write the name of a new folder")
        if out.exists() and any(out.iterdir()):
            raise UserError(
                f"{out}: is not empty; nothing is overwritten: write the name of a new folder"
            )
    except OSError as error:
        raise UserError(f"{out}: cannot be read: {error.strerror}") from None


def start_or_resume(part: Path, plan: str) -> bool:
    """Record `plan` in `part`, deleting files of another plan; True where the plan is the same."""
    file = part / PLAN
    same = file.exists() and file.read_text() == plan
    for path in part.iterdir():
        if path.name != LOCK and (not same or path.name.endswith(".tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_atomically(file, plan.encode())
    return same


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, and flush it to disk."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _lock(file: int, out: Path) -> None:
    """Lock `file`, waiting up to LOCK_TIMEOUT: workers of a killed attempt hold it for a moment."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(f"{out}: is being written by another process") from None
            time.sleep(0.1)
        except OSError:  # some network file systems have no locks: continue without
            return
