"""Folder of the parts of divided work: its plan, its lock, the tasks of a job array."""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mae.base.errors import RunFailed, UserError
from mae.base.files import discard, link_new, new_file, read_json, require_name
from mae.base.locks import flock
from mae.base.portion import Portion

PLAN, LOCK, ARRAY = "plan", "lock", "array"
DRAINED = "drained"
"""ending of files that say how many parts were drained"""
SIGHT_SECONDS = 60.0
"""seconds until a file of another machine is seen: network file systems remember what was there"""
SILENT_SECONDS = 1.0
"""seconds that a command waits for another until it says so"""
SHARED = "put it on storage that all machines of the launch share"


def parts_path(out: Path) -> Path:
    """Folder of the parts of `out`; UserError where that has no name, as `.`."""
    require_name(out)
    return out.with_name(f".{out.name}.parts")


def bytes_done(out: Path) -> int:
    """Bytes on disk of the parts of `out`, which are there after an interruption."""
    total = 0
    with suppress(FileNotFoundError):
        for file in parts_path(out).iterdir():
            with suppress(FileNotFoundError):  # renamed by its writer meanwhile
                total += 512 * file.stat().st_blocks
    return total


def remove(folder: Path) -> None:
    """Delete the folder; under another name, since a waiting process takes its name at once."""
    doomed = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}")
    with suppress(OSError):
        folder.rename(doomed)
    remove_rest(folder)


def remove_rest(folder: Path) -> None:
    """Delete what processes that were killed while they removed the folder have left."""
    for path in folder.parent.iterdir():
        if re.fullmatch(re.escape(folder.name) + r"\.[0-9a-f]{8}", path.name):
            discard(path)


@contextmanager
def parts_folder(
    folder: Path, plan: str, portion: Portion, log: Callable[[str], None]
) -> Iterator[None]:
    """Make, lock and tidy `folder` in the process that joins; others do nothing.

    Parts of another plan are deleted.  After an error finished parts are kept, which `log` reports.
    Raises UserError where a job array has left parts of another plan, or none to join.
    """
    if not portion.joins:
        yield
        return
    if portion.is_join:
        _require_plan(folder, plan)
    lock = _locked(folder, log)
    try:
        if portion.is_join:
            _require_plan(folder, plan)  # another process may have joined them meanwhile
        else:
            _start_or_resume(folder, plan, log)
        remove_rest(folder)
        yield
    except (OSError, UserError, RunFailed, KeyboardInterrupt):
        if folder.exists() and not array_counts(folder):
            if not _count_parts(folder):
                remove(folder)
            elif not portion.is_join:
                log(f"{folder} keeps the finished parts: run the same command again to resume")
        raise
    finally:
        os.close(lock)


def _locked(folder: Path, log: Callable[[str], None]) -> int:
    """Descriptor that holds the lock of `folder`, which is made if it is not there."""
    start, is_said = time.monotonic(), False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted at the end of another process's work
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                flock(file, wait=False)
                if os.fstat(file).st_ino == (folder / LOCK).stat().st_ino:
                    return file
            except BlockingIOError:
                # Workers of a killed command hold it for a moment.
                if not is_said and time.monotonic() - start >= SILENT_SECONDS:
                    log(f"{folder}: waiting for another command that does the same work")
                    is_said = True
            except FileNotFoundError:
                pass
            except OSError:  # some network file systems have no locks: go on without
                return file
            os.close(file)
        time.sleep(0.1)


def _start_or_resume(folder: Path, plan: str, log: Callable[[str], None]) -> None:
    """Record `plan`; files of another one, and of killed writers, are deleted.

    Raises UserError for another plan of a job array, whose tasks may be running.
    """
    same = (folder / PLAN).exists() and (folder / PLAN).read_text() == plan
    is_shared, parts = bool(array_counts(folder)), _count_parts(folder)
    if is_shared and not same:
        _require_plan(folder, plan)
    if parts and same:
        log(f"{folder}: resuming, {parts:,} parts are done")
    elif parts:
        log(f"{folder}: holds parts of other data or options: starting over")
    if not same:
        _record(folder, "")  # until the files of another plan are deleted
    for path in folder.iterdir():
        is_old = not same and path.name not in (PLAN, LOCK)
        if is_old or (path.name.endswith(".part") and not is_shared):
            discard(path)
    if not same:
        _record(folder, plan)


def _record(folder: Path, plan: str) -> None:
    with new_file(folder / PLAN) as part:
        part.write_text(plan)


def array_counts(folder: Path) -> list[int]:
    """Numbers of tasks of the job arrays that work in `folder`, ascending."""
    return sorted(int(file.name.rpartition("-")[2]) for file in folder.glob(f"{ARRAY}-*"))


def _count_parts(folder: Path) -> int:
    """Number of results that are, or were, in the folder."""
    drained = sum(read_json(file).get("parts", 0) for file in folder.glob(f"*.{DRAINED}"))
    return drained + sum(re.search(r"-\d{6,}$", file.name) is not None for file in folder.iterdir())


def enter_array(folder: Path, plan: str, count: int) -> None:
    """Record `plan` as the first task of a job array; UserError where there is another one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{PLAN}.{secrets.token_hex(4)}.part"
    part.write_text(plan)
    link_new(part, folder / PLAN)
    discard(part)
    _require_plan(folder, plan)
    (folder / f"{ARRAY}-{count}").touch()


def _require_plan(folder: Path, plan: str) -> None:
    if not (folder / PLAN).exists():
        raise UserError(f"{folder}: holds no parts: run the tasks --part 1/N to N/N before --join")
    if (folder / PLAN).read_text() != plan:
        raise UserError(
            f"{folder}: holds parts of other data or options: use the same ones in all tasks, or "
            "delete the folder to start over"
        )


def require_agreement(folder: Path, plan: str, portion: Portion) -> None:
    """Raise UserError in all processes where one has another plan, or does not see the folder."""
    digest = hashlib.sha256(plan.encode("utf-8", "surrogateescape")).hexdigest()
    plans = portion.gather(digest)  # the first has written the folder before
    for number, other in enumerate(plans):
        if other != plans[0]:
            raise UserError(
                f"process {number} of {portion.count} found other data or options than the first: "
                "do all machines see the same files?"
            )
    sees = portion.gather(not portion.is_launched or is_seen(lambda: _holds(folder, plan)))
    for number, found in enumerate(sees):
        if not found:
            raise UserError(f"{folder}: not seen by process {number} of {portion.count}: {SHARED}")


def _holds(folder: Path, plan: str) -> bool:
    with suppress(OSError):
        return (folder / PLAN).read_text() == plan
    return False


def is_seen(look: Callable[[], bool]) -> bool:
    """True once `look` is; False after SIGHT_SECONDS: for files that another machine wrote."""
    deadline = time.monotonic() + SIGHT_SECONDS
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
