"""Shard cache: whole copies of remote shards in a folder of this node, shared by its processes.

`mae.storage.cache_files` names the files.
"""

import errno
import hashlib
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, overload

from mae.base.errors import StorageError, UserError
from mae.base.files import discard
from mae.base.locks import locked
from mae.base.redaction import redacted
from mae.config.sections import DataConfig
from mae.storage.cache_files import (
    Contents,
    contents,
    copy_bytes,
    least_recently_used,
    lock_file,
    remove_dangling,
    size_of_parts,
    without_leftovers,
)
from mae.storage.remote import canonical_address, download
from mae.storage.retry import Check

SLOTS = 4096
"""number of lock files; shards that share one are downloaded one after the other"""
GROWTH = 16 << 20
"""bytes after which a download of unknown size makes room again"""
DANGLING = 1.25
"""references per copy above which those of evicted copies are deleted"""
ROOM_POLL_INTERVAL = 0.2
"""seconds between checks for room while the downloads of other processes run"""


class _NoRoom(StorageError):
    """Running downloads of unknown size exceed the limit together."""


@dataclass(frozen=True)
class ShardCache:
    """Cache of verified shard copies in `folder` with least-recently-used eviction.

    `limit` is in bytes and holds for copies and running downloads together.  A copy that is
    evicted while a reader has it open no longer counts, but occupies disk space until the reader
    closes it; data workers do so when they open their next shard.
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
        """Path of a whole copy of the shard, downloaded unless it is cached.

        A cached copy is identified by its `sha256`, else by `version`; without either the shard
        is always downloaded.  Without `wait`, returns None where another thread or process is
        downloading it.  Raises StorageError where the shard cannot be downloaded or stored,
        UserError where it is larger than `limit`.
        """
        # Without an identity, only a copy that was stored during this call may be used.
        since = 0.0 if sha256 or version else time.time()
        ref = self._ref(location, size, version)
        if copy := self._find(ref, size, sha256, since):
            return copy
        if size is not None and size > self.limit:
            raise self._too_large(location, size)
        slot = f"{int(sha256 or ref.stem, 16) % SLOTS:03x}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(lock_file(self.folder, slot), wait):
                if copy := self._find(ref, size, sha256, since):
                    return copy
                return self._download_and_store(location, size, sha256, ref, slot)
        except OSError as error:
            if isinstance(error, BlockingIOError) and not wait:
                return None
            raise StorageError(
                f"data.cache_dir: {self.folder}: cannot be used: {error.strerror}"
            ) from None

    def open(
        self, location: str, size: int | None = None, sha256: str | None = None, version: str = ""
    ) -> BinaryIO:
        """Open the copy that `fetch` returns; an open file stays readable after eviction."""
        while True:
            with suppress(FileNotFoundError):  # evicted between fetch and open
                return self.fetch(location, size, sha256, version).open("rb")

    def discard(
        self, location: str, size: int | None = None, sha256: str | None = None, version: str = ""
    ) -> None:
        """Delete a damaged copy, so that the next `fetch` downloads the shard again."""
        if copy := self._find(self._ref(location, size, version), size, sha256, 0.0):
            discard(copy)

    def _ref(self, location: str, size: int | None, version: str) -> Path:
        text = f"{canonical_address(location)}\0{size}\0{version}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.ref"

    def _find(self, ref: Path, size: int | None, sha256: str | None, since: float) -> Path | None:
        """Cached whole copy, marked as most recently used; None where there is none."""
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
                copy.unlink()  # truncated by a full disk or by hand
                return None
            os.utime(copy)
            return copy
        except (OSError, StopIteration):
            return None

    def _download_and_store(
        self, location: str, size: int | None, sha256: str | None, ref: Path, slot: str
    ) -> Path:
        """Download a shard, verify it and store the copy; the caller holds the lock of `slot`."""
        for leftover in contents(self.folder).parts:
            if leftover.name.startswith(f"{slot}-"):  # of a killed process
                Path(leftover.path).unlink()
        # The size in the name reserves room: other processes count it before they download.
        part = self.folder / f"{slot}-{size or 0}.part"
        self._wait_for_room(part, size or 0)
        try:
            try:
                digest = self._download(location, part, size)
            except _NoRoom:  # of unknown size, beside others: once more, when they are done
                part.unlink()
                part = self.folder / f"{slot}-{self.limit}.part"
                self._wait_for_room(part, self.limit)
                digest = self._download(location, part, size)
            if sha256 is not None and digest != sha256:
                digest = self._download(location, part, size)
            if sha256 is not None and digest != sha256:
                raise StorageError(
                    f"{redacted(location)}: its sha256 is {digest[:12]}…, not {sha256[:12]}…: "
                    "damaged in transit, or changed since it was indexed (then delete its index, "
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
                found = contents(self.folder)
                self._evict(found, self.limit - size_of_parts(found.parts))
                part.rename(copy)
                link.rename(ref)
            return copy
        finally:
            discard(part)

    def _download(self, location: str, part: Path, size: int | None) -> str:
        """Download to `part`, evicting copies where the disk is full; returns the sha256."""
        while True:
            try:
                with part.open("w+b", buffering=0) as file:
                    check = None if size else self._room_check(location, part)
                    download(location, file, size, self.allow_pipe, check)
                    os.fsync(file.fileno())
                    file.seek(0)
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                needed = size or 2 * part.stat().st_size
                os.truncate(part, 0)
                # EFBIG is a limit on the size of a file: evicting others does not help.
                if error.errno == errno.EFBIG or not self._make_room(needed):
                    free = shutil.disk_usage(self.folder).free
                    raise StorageError(
                        f"data.cache_dir: {self.folder}: {error.strerror}: "
                        f"{redacted(location)} needs {_gigabytes(needed)}, {_gigabytes(free)} are "
                        "free: lower data.cache_gb or choose another data.cache_dir"
                    ) from None

    def _room_check(self, location: str, part: Path) -> Check:
        """Check of a download of unknown size, which evicts copies as `part` grows.

        Raises UserError beyond `limit` bytes, and _NoRoom where `part` and those of other running
        downloads exceed it together, unless `part` has reserved all of it.
        """
        is_alone, seen = part.stem.endswith(f"-{self.limit}"), 0

        def check(written: int) -> None:
            nonlocal seen
            if written > self.limit:
                raise UserError(
                    f"{redacted(location)}: sends more than the {_gigabytes(self.limit)} of the "
                    "cache: raise data.cache_gb, if that is a shard"
                )
            if is_alone or seen <= written < seen + GROWTH:
                return
            seen = written
            with locked(lock_file(self.folder, "room")):
                found = contents(self.folder)
                parts = size_of_parts(found.parts)
                if parts > self.limit:
                    raise _NoRoom
                self._evict(found, self.limit - parts)

        return check

    def _wait_for_room(self, part: Path, size: int) -> None:
        while not self._reserve(part, size):
            time.sleep(ROOM_POLL_INTERVAL)

    def _reserve(self, part: Path, size: int) -> bool:
        """Create `part`, evicting copies for it; False where running downloads leave no room."""
        with locked(lock_file(self.folder, "room")):
            found = contents(self.folder)
            others = size_of_parts(without_leftovers(self.folder, found.parts))
            if others + size > self.limit and others:
                return False
            self._evict(found, self.limit - others - size)
            part.touch()
            return True

    def _make_room(self, size: int) -> bool:
        """Evict copies of `size` bytes in all; False where there was nothing to evict."""
        with locked(lock_file(self.folder, "room")):
            found = contents(self.folder)
            return self._evict(found, found.bytes - size) > 0

    def _evict(self, found: Contents, limit: int) -> int:
        """Delete the least recently used copies down to `limit` bytes; returns their number."""
        total, evicted = found.bytes, 0
        if total <= limit:
            return 0
        for copy in least_recently_used(found.copies):
            if total <= limit:
                break
            Path(copy.path).unlink(missing_ok=True)  # readers that have it open keep their data
            total -= copy_bytes(copy)
            evicted += 1
        # Not at each download: every reference is looked at.
        if len(found.references) > DANGLING * (len(found.copies) - evicted):
            remove_dangling(found.references)
        return evicted

    def _too_large(self, location: str, size: int) -> UserError:
        return UserError(
            f"{redacted(location)}: {_gigabytes(size)} do not fit into "
            f"{_gigabytes(self.limit)}: raise data.cache_gb"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def build_cache(config: DataConfig) -> ShardCache:
    """Build the shard cache from `data.cache_dir`, `data.cache_gb` and `data.allow_pipe`."""
    return ShardCache(
        Path(config.cache_dir).expanduser(), int(config.cache_gb * 1e9), config.allow_pipe
    )
