"""Files of the shard cache's folder, and their locks.

- `SHA256-SIZE.tar`: a copy, named by its content, so one copy serves all its addresses; it appears
  by rename, whole.
- `REF.ref`: symbolic link from a hash of address, size and version to a copy.
- `SLOT-SIZE.part`: a running download and the number of bytes it has reserved.
- `SLOT.lock`: lock of a download; one process downloads a shard while the others wait.
- `room.lock`: lock of reserving room and evicting copies.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mae.base.locks import locked

COPY, PART = re.compile(r"[0-9a-f]{64}-\d+\.tar"), re.compile(r"[0-9a-f]{3}-\d+\.part")
"""names of files that are the cache's own, and may be deleted"""


class Contents(NamedTuple):
    """Files of the cache's folder, as one look at it finds them."""

    copies: list[os.DirEntry[str]]
    parts: list[os.DirEntry[str]]
    """running or killed downloads"""
    references: list[os.DirEntry[str]]

    @property
    def bytes(self) -> int:
        """Bytes of all copies, by their names: each download asks, of perhaps 10,000 copies."""
        return sum(map(copy_bytes, self.copies))


def contents(folder: Path) -> Contents:
    """Look at the folder; others' files are passed over."""
    found = Contents([], [], [])
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(".ref"):
                found.references.append(entry)
            elif name.endswith(".tar") and COPY.fullmatch(name):
                found.copies.append(entry)
            elif PART.fullmatch(name):
                found.parts.append(entry)
    return found


def copy_bytes(copy: os.DirEntry[str]) -> int:
    """Bytes of a copy."""
    return int(copy.name[65:-4])


def least_recently_used(copies: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """The copies by the time of their last use, the earliest first."""
    used = []
    for copy in copies:
        with suppress(FileNotFoundError):
            used.append((copy.stat().st_mtime_ns, copy.name, copy))
    return [copy for _, _, copy in sorted(used)]


def size_of_parts(parts: Iterable[os.DirEntry[str]]) -> int:
    """Bytes reserved by running downloads, or written where their size is unknown."""
    total = 0
    for part in parts:
        with suppress(FileNotFoundError):
            total += max(Path(part.path).stat().st_size, int(part.name[4:-5]))
    return total


def without_leftovers(folder: Path, parts: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """The parts of running downloads; those of killed ones, whose lock is free, are deleted."""
    running = []
    for part in parts:
        try:
            with locked(lock_file(folder, part.name[:3]), wait=False):
                Path(part.path).unlink(missing_ok=True)
        except BlockingIOError:
            running.append(part)
    return running


def remove_dangling(references: Iterable[os.DirEntry[str]]) -> None:
    """Delete the references to copies that are not there any more."""
    for reference in references:
        try:
            Path(reference.path).stat()
        except FileNotFoundError:
            Path(reference.path).unlink(missing_ok=True)


def lock_file(folder: Path, slot: str) -> Path:
    """Path of the lock with that name: a slot, or `room`."""
    return folder / f"{slot}.lock"
