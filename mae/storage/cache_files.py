"""Files of the shard cache's folder, and their locks.

- `SHA256-SIZE.tar`: a copy, named by its content, so one copy serves all its addresses; it appears
  by rename, whole.
- `REF.ref`: symbolic link from a hash of address, size and version to a copy.
- `SLOT-SIZE.part`: a running download and the number of bytes it has reserved.
- `SLOT.lock`: lock of a download; one process downloads a shard while the others wait.
- `room.lock`: lock of reserving room and evicting copies.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COPY, PART = re.compile(r"[0-9a-f]{64}-\d+\.tar"), re.compile(r"[0-9a-f]{3}-\d+\.part")
"""names of files that are the cache's own, and may be deleted"""


def copies(folder: Path) -> list[tuple[int, Path, int]]:
    """List all copies as (time of last use in ns, path, bytes), least recently used first."""
    rows = []
    for copy in folder.glob("*.tar"):
        if not COPY.fullmatch(copy.name):
            continue  # somebody's own tar
        with suppress(FileNotFoundError):
            status = copy.stat()
            rows.append((status.st_mtime_ns, copy, status.st_size))
    return sorted(rows)


def size_of_parts(folder: Path) -> int:
    """Bytes reserved by running downloads, or written where their size is unknown."""
    total = 0
    for part in _parts(folder):
        with suppress(FileNotFoundError):
            total += max(part.stat().st_size, int(part.stem.partition("-")[2]))
    return total


def _parts(folder: Path) -> list[Path]:
    """Files of running or killed downloads."""
    return [path for path in folder.glob("*.part") if PART.fullmatch(path.name)]


def remove_leftovers(folder: Path) -> None:
    """Delete the parts of killed processes: those whose lock is free."""
    for part in _parts(folder):
        slot = part.stem.partition("-")[0]
        with suppress(BlockingIOError), locked(lock_file(folder, slot), wait=False):
            part.unlink(missing_ok=True)


def lock_file(folder: Path, slot: str) -> Path:
    """Path of the lock with that name: a slot, or `room`."""
    return folder / f"{slot}.lock"


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` among all processes and threads; released at exit or kill.

    Without `wait`, raises BlockingIOError where the lock is held.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            # Explicitly, not by closing: a process forked meanwhile has the file open, too.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        with suppress(OSError):
            os.close(file)
