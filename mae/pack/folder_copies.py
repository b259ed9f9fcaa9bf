"""Packed copies of folders: their names, the lock of those that read them, and their deletion.

A process that reads a copy holds a shared lock on it until it ends, so that no other deletes it.
"""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from mae.base.files import discard, read_json, write_json
from mae.base.locks import flock
from mae.base.printable import printable
from mae.data.folder_source import ABOUT, COPY, source_of
from mae.pack.folder_changes import write_files
from mae.pack.listing import Listing
from mae.pack.output import REPORT

VERSION = 2
"""changes whenever the same files and options give another copy"""
IN_USE = "in-use"
LEFTOVER = re.compile(r"\..*-[0-9a-f]{16}\.(parts|deleted)(\.[0-9a-f]{8})?")
"""name of a copy that was not finished, or not deleted to the end"""
PARTS_AGE = 7 * 86400
"""seconds from which a copy that was not finished is deleted"""
KEPT = 1
"""number of former copies of a folder, of the same share, that are kept beside the newest"""
MAX_AGE = 90 * 86400
"""seconds after its last use from which a copy is deleted when another one is made"""

_in_use: dict[Path, int] = {}
"""copies that this process reads, the last asked for last, and their locks, which end with it"""


def copy_name(listing: Listing, val_share: float = 0.0) -> str:
    """Name of the copy of a listed folder: equal as long as its files are."""
    name = re.sub(r"[^\w.-]", "_", printable(Path(listing.name).name))[:64] or "folder"
    text = json.dumps([VERSION, listing.fingerprint, val_share])
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def copy_in_use(source: Path, val_share: float) -> str:
    """Name of the copy of a folder that this process reads for a share, the last asked for.

    "" where there is none.
    """
    for copy in reversed(_in_use):
        if source_of(copy) == str(source) and share_of(copy) == val_share:
            return copy.name
    return ""


def share_of(copy: Path) -> float | None:
    """Share of the images that `copy` holds out; None: not recorded."""
    return read_json(copy / ABOUT).get("val_share")


def take(copy: Path) -> bool:
    """Hold a copy, if it is there and whole, for as long as this process lives."""
    if (held := _in_use.pop(copy, None)) is not None:
        if is_whole(copy):
            _in_use[copy] = held
            _mark_used(copy)
            return True
        os.close(held)
    try:
        lock = os.open(copy / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # there is no such copy, or it is another user's
        return is_whole(copy)
    with suppress(OSError):  # a file system without locks
        flock(lock, shared=True)
    if is_whole(copy):  # not deleted before the lock was there
        _in_use[copy] = lock
        _mark_used(copy)
        return True
    os.close(lock)
    discard(copy / IN_USE)
    return False


def _mark_used(copy: Path) -> None:
    with suppress(OSError):
        os.utime(copy / IN_USE)


def is_whole(copy: Path) -> bool:
    """True where a copy has the shards that it was made with."""
    shards = read_json(copy / REPORT).get("shards", {})
    return bool(shards) and all(
        len(list(copy.glob(f"{split}-*.tar"))) == count for split, count in shards.items()
    )


def describe(listing: Listing, copy: Path, val_share: float) -> None:
    """Write what lies beside the shards, unless it is there: a killed process may have left it out.

    Nothing is written to another user's copy.
    """
    if (copy / ABOUT).exists() or not os.access(copy, os.W_OK):
        return
    write_files(listing, copy)
    about = {"folder": listing.name, "images": len(listing.sizes), "val_share": val_share}
    write_json(copy / ABOUT, about)


def copies_of(place: Path, source: str) -> list[Path]:
    """Copies of a folder, the last used first."""
    return [copy for copy in _all_copies(place) if source_of(copy) == source]


def _all_copies(place: Path) -> list[Path]:
    """Copies of all folders, the last used first."""
    found = []
    for copy in place.iterdir():
        if COPY.fullmatch(copy.name):
            with suppress(OSError):
                found.append(((copy / IN_USE).stat().st_mtime_ns, copy))
    return [copy for _, copy in sorted(found, reverse=True)]


def delete_former(place: Path, source: str, newest: Path) -> None:
    """Delete copies that no process reads: former ones of a folder, and old ones of any."""
    share = share_of(newest)
    own = [copy for copy in copies_of(place, source) if copy != newest and share_of(copy) == share]
    for copy in _all_copies(place):
        with suppress(OSError):
            age = time.time() - (copy / IN_USE).stat().st_mtime
            if copy in own[KEPT:] or (copy != newest and age > MAX_AGE):
                delete(copy)
    for rest in place.glob(".*"):  # of processes that were killed, and never run again
        with suppress(OSError):
            if LEFTOVER.fullmatch(rest.name) and time.time() - rest.stat().st_mtime > PARTS_AGE:
                discard(rest)


def delete(copy: Path) -> None:
    """Delete a copy unless a process reads it."""
    try:
        lock = os.open(copy / IN_USE, os.O_RDWR)
    except OSError:
        return
    try:
        flock(lock, wait=False)
        doomed = copy.with_name(f".{copy.name}.deleted")
        copy.rename(doomed)
        discard(doomed)
    except OSError:  # it is read, or there are no locks to know that by
        pass
    finally:
        os.close(lock)
