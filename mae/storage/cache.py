"""Whole copies of remote shards in a folder of this node, shared by all of its processes.

A copy is named by its sha256 and size, so what is found by name is the right one, whatever
address it came from; `REF.ref` is a link from an address and version to it.  Copies appear by
rename, whole; a lock per shard lets one process fetch it while the others wait.

Files: copies `SHA256-SIZE.tar`; running downloads `SLOT-SIZE.part` (the size they have reserved);
`SLOT.lock`, held by the process that downloads there.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, overload

from mae.base.errors import StorageError, UserError
from mae.config.sections import DataConfig
from mae.storage.files import download, identity, redacted

SLOTS = 4096
"""lock files: shards that share one wait for each other, which costs only time"""
WAIT_FOR_ROOM = 0.2
"""seconds between looks whether the downloads of others have ended"""


@dataclass(frozen=True)
class ShardCache:
    """Verified copies of shards in `folder`, the least recently used given up beyond `limit`.

    `limit` is in bytes and holds for copies and running downloads together.  A copy given up
    while a reader has it open counts no more, but keeps its disk space until it is closed: a data
    worker does so when it opens another shard.
    """

    folder: Path
    limit: int
    allow_pipe: bool = False

    @overload
    def fetch(
        self,
        location: str,
        size: int | None = None,
        sha256: str | None = None,
        version: str = "",
        wait: Literal[True] = True,
    ) -> Path: ...

    @overload
    def fetch(
        self,
        location: str,
        size: int | None = None,
        sha256: str | None = None,
        version: str = "",
        *,
        wait: bool,
    ) -> Path | None: ...

    def fetch(
        self,
        location: str,
        size: int | None = None,
        sha256: str | None = None,
        version: str = "",
        wait: bool = True,
    ) -> Path | None:
        """The path of a whole copy: the one with that `sha256`, else of that `version`.

        Without either nothing tells whether a copy is still right: it is fetched anew.
        None where another thread or process is bringing it and this is not to `wait` for it.
        Raises StorageError where it cannot be had or kept, UserError for a shard over `limit`.
        """
        # Unversioned, only what came while this call waited for its lock may be shared.
        since = 0.0 if sha256 or version else time.time()
        ref = self._ref(location, size, version)
        if found := self._find(ref, size, sha256, since):
            return found
        if size is not None and size > self.limit:
            raise self._too_large(location, size)
        slot = f"{int(sha256 or ref.stem, 16) % SLOTS:03x}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(lock_file(self.folder, slot), wait):
                if found := self._find(ref, size, sha256, since):
                    return found
                return self._bring(location, size, sha256, ref, slot)
        except OSError as error:
            if isinstance(error, BlockingIOError) and not wait:
                return None
            raise StorageError(
                f"data.cache_dir: {self.folder}: cannot be used: {error.strerror}"
            ) from None

    def open(
        self, location: str, size: int | None = None, sha256: str | None = None, version: str = ""
    ) -> BinaryIO:
        """The copy that `fetch` finds, open for reading: whoever gives it up now does no harm."""
        while True:
            with suppress(FileNotFoundError):  # given up in this very instant
                return self.fetch(location, size, sha256, version).open("rb")

    def discard(
        self, location: str, size: int | None = None, sha256: str | None = None, version: str = ""
    ) -> None:
        """Drop a copy that turned out to be damaged: the next `fetch` downloads it."""
        if copy := self._find(self._ref(location, size, version), size, sha256, 0.0):
            copy.unlink(missing_ok=True)

    def _ref(self, location: str, size: int | None, version: str) -> Path:
        text = f"{identity(location)}\0{size}\0{version}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.ref"

    def _find(self, ref: Path, size: int | None, sha256: str | None, since: float) -> Path | None:
        """The copy, now the most recently used; None where there is none that is whole."""
        try:
            if sha256 is None:
                if ref.lstat().st_mtime < since:
                    return None
                copy = self.folder / ref.readlink()
            elif size is None:
                copy = next(self.folder.glob(f"{sha256}-*.tar"))
            else:
                copy = self.folder / f"{sha256}-{size}.tar"
            if copy.stat().st_size != int(copy.stem.rpartition("-")[2]):
                copy.unlink()  # cut by a full disk or by hand
                return None
            os.utime(copy)
            return copy
        except (OSError, StopIteration):
            return None

    def _bring(
        self, location: str, size: int | None, sha256: str | None, ref: Path, slot: str
    ) -> Path:
        """Download, verify, and put in place.  The caller holds the lock of `slot`."""
        for left in self.folder.glob(f"{slot}-*.part"):  # of a process that was killed
            left.unlink()
        # The name reserves room: others add it up before they start a download.
        part = self.folder / f"{slot}-{size or 0}.part"
        while not self._reserve(part, size or 0):
            time.sleep(WAIT_FOR_ROOM)
        try:
            digest = self._download(location, part, size)
            if sha256 is not None and digest != sha256:
                digest = self._download(location, part, size)
            if sha256 is not None and digest != sha256:
                raise StorageError(
                    f"{redacted(location)}: its sha256 is {digest[:12]}…, not {sha256[:12]}…: "
                    "damaged on the way, or changed since it was indexed (then delete its index, "
                    "in data.index_dir or ~/.cache/mae/index, and renew the one published beside "
                    "it in .mae-index, if there is one)"
                )
            length = part.stat().st_size
            if length > self.limit:
                raise self._too_large(location, length)
            copy = self.folder / f"{digest}-{length}.tar"
            link = self.folder / f"{slot}.link"
            link.unlink(missing_ok=True)
            link.symlink_to(copy.name)
            with locked(lock_file(self.folder, "room")):
                self._evict(self.limit - size_of_parts(self.folder))
                part.rename(copy)
                link.rename(ref)
            return copy
        finally:
            part.unlink(missing_ok=True)

    def _download(self, location: str, part: Path, size: int | None) -> str:
        """The sha256 of what was downloaded to `part`."""
        while True:
            try:
                with part.open("w+b", buffering=0) as file:
                    download(location, file, size, self.allow_pipe)
                    os.fsync(file.fileno())
                    file.seek(0)
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                needed = size or 2 * part.stat().st_size
                os.truncate(part, 0)
                # A file over the largest size that is allowed is no matter of room.
                if error.errno == errno.EFBIG or not self._make_room(needed):
                    free = shutil.disk_usage(self.folder).free
                    raise StorageError(
                        f"data.cache_dir: {self.folder}: {error.strerror}: "
                        f"{redacted(location)} needs {_gigabytes(needed)}, {_gigabytes(free)} are "
                        "free: lower data.cache_gb or choose another data.cache_dir"
                    ) from None

    def _reserve(self, part: Path, size: int) -> bool:
        """Create `part` once it fits beside the downloads of others; give up copies for it."""
        with locked(lock_file(self.folder, "room")):
            remove_leftovers(self.folder)
            others = size_of_parts(self.folder)
            if others + size > self.limit and others:
                return False
            self._evict(self.limit - others - size)
            part.touch()
            return True

    def _make_room(self, size: int) -> bool:
        """Give up copies of `size` bytes in all; False where there was nothing to give up."""
        with locked(lock_file(self.folder, "room")):
            kept = sum(length for _, _, length in copies(self.folder))
            return self._evict(kept - size) > 0

    def _evict(self, most: int) -> int:
        """Unlink the least recently used copies until at most `most` bytes are left; how many."""
        kept = copies(self.folder)
        total = sum(length for _, _, length in kept)
        evicted = 0
        for _, copy, length in kept:
            if total <= most:
                break
            copy.unlink(missing_ok=True)  # harmless to who has it open: it is gone once closed
            total -= length
            evicted += 1
        if evicted:
            for ref in self.folder.glob("*.ref"):
                if not ref.exists():  # what it points to is gone
                    ref.unlink(missing_ok=True)
        return evicted

    def _too_large(self, location: str, size: int) -> UserError:
        return UserError(
            f"{redacted(location)}: {_gigabytes(size)} do not fit into "
            f"{_gigabytes(self.limit)}: raise data.cache_gb"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def build_cache(config: DataConfig) -> ShardCache:
    """The folder of remote shards, shared by all processes of this machine."""
    return ShardCache(
        Path(config.cache_dir).expanduser(), int(config.cache_gb * 1e9), config.allow_pipe
    )


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
