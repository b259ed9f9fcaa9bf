"""What lies in the folder of a cache.

Copies `SHA256-SIZE.tar`, running downloads `SLOT-SIZE.part` (the size that they have reserved),
and `SLOT.lock`, which who downloads there holds.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def copies(folder: Path) -> list[tuple[int, Path, int]]:
    """(time of last use, path, bytes), the least recently used first."""
    found = []
    for copy in folder.glob("*.tar"):
        with suppress(FileNotFoundError):
            status = copy.stat()
            found.append((status.st_mtime_ns, copy, status.st_size))
    return sorted(found)


def size_of_parts(folder: Path) -> int:
    """Bytes that running downloads have reserved or, their size unknown, written."""
    total = 0
    for part in folder.glob("*.part"):
        with suppress(FileNotFoundError):
            total += max(part.stat().st_size, int(part.stem.partition("-")[2]))
    return total


def remove_leftovers(folder: Path) -> None:
    """Unlink the parts that no process works on any more: their lock is free."""
    for part in folder.glob("*.part"):
        slot = part.stem.partition("-")[0]
        with suppress(BlockingIOError), locked(lock_file(folder, slot), wait=False):
            part.unlink(missing_ok=True)


def lock_file(folder: Path, slot: str) -> Path:
    """The lock of a slot, or of any other name."""
    return folder / f"{slot}.lock"


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold `path` alone among all processes and threads; a killed holder lets go by itself.

    Raises BlockingIOError where another holds it and this is not to `wait`.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            # By name, not by closing: a process forked meanwhile has it open, too.
            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)
