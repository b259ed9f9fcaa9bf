"""A folder that is worked on until it is whole, over any number of attempts."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mae.base.errors import RunFailed, UserError

PLAN = "plan"
LOCK = "lock"
PATIENCE = 5.0


@contextmanager
def unfinished_folder(out: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """`.NAME.part` beside `out`, with what earlier attempts left; becomes `out` after the block.

    What fails or is interrupted after `begin` stays, and the next attempt goes on from there.
    Raises UserError where `out` has something in it already, cannot be written, or is being
    worked on by another process.
    """
    if not out.name:
        raise UserError(f"{out}: write the name of a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; nothing is overwritten")
    part = out.with_name(f".{out.name}.part")
    kept = f"{part} keeps what is done: the same command goes on from there"
    try:
        part.mkdir(parents=True, exist_ok=True)
        with (part / LOCK).open("w") as lock:
            _lock(lock.fileno(), out)
            if not (part / LOCK).exists():  # whoever held it has just renamed the folder
                raise UserError(f"{out}: another process has just written it")
            try:
                yield part
            finally:
                if not (part / PLAN).exists():
                    shutil.rmtree(part, ignore_errors=True)
            for name in (PLAN, LOCK):
                (part / name).unlink()
            sync_folder(part)
            if out.exists():
                out.rmdir()
            part.rename(out)
            sync_folder(out.parent)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}; {kept}") from None
    except (UserError, RunFailed, KeyboardInterrupt):
        if part.exists():
            say(kept)
        raise


def begin(part: Path, plan: str) -> bool:
    """Whether earlier work in `part` was for the same plan; what was for another is deleted."""
    file = part / PLAN
    same = file.exists() and file.read_text() == plan
    for path in part.iterdir():
        if path.name != LOCK and (not same or path.name.endswith(".tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(file, plan.encode())
    return same


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there with all of its content or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Names in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: int, out: Path) -> None:
    """Workers of a killed attempt hold the lock for a moment yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(f"{out}: another process is writing it") from None
            time.sleep(0.1)
        except OSError:  # some network file systems know no locks: go on without
            return
