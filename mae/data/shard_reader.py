"""Reader of sample bytes: one `pread` on a local shard or the cached copy of a remote one."""

import os
import stat
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from mae.base.errors import SampleError, StorageError
from mae.base.redaction import redacted
from mae.data.manifest import Manifest
from mae.storage.cache import ShardCache
from mae.storage.remote import is_remote

OPEN_SHARDS = 64
"""maximum number of open shards per reader"""


class ShardReader:
    """Reads samples by number; keeps the most recently used shards open."""

    def __init__(self, manifest: Manifest, cache: ShardCache | None = None) -> None:
        self.manifest = manifest
        self.cache = cache
        self._files: OrderedDict[int, int] = OrderedDict()

    def read(self, sample: int) -> bytes:
        """The image file of a sample, checked against the crc32 of the manifest.

        A mismatch is read once more, for a remote shard from a fresh copy.  Raises SampleError,
        naming shard and key, where it persists, StorageError where the shard cannot be read.
        """
        data, defect = self._read(sample)
        if defect:
            self._refresh(self.manifest.shard_of(sample))
            data, defect = self._read(sample)
        if defect:
            raise SampleError(f"{self.manifest.name(sample)}: {defect}")
        return data

    def _read(self, sample: int) -> tuple[bytes, str]:
        """The bytes, and their defect (empty: none)."""
        manifest = self.manifest
        size, offset = manifest.size.item(sample), manifest.offset.item(sample)
        try:
            file = self._open(manifest.shard_of(sample))
            data = os.pread(file, size, offset)
            while len(data) < size and (
                more := os.pread(file, size - len(data), offset + len(data))
            ):
                data += more  # network file systems may answer in parts
        except OSError as error:
            raise StorageError(
                f"{manifest.name(sample)}: cannot be read: {error.strerror}"
            ) from None
        if len(data) < size:
            return data, f"{len(data)} of {size} bytes are there: the shard was cut"
        if zlib.crc32(data) != manifest.crc.item(sample):
            return data, "not the bytes that were indexed (checksum)"
        return data, ""

    @contextmanager
    def open_shard(self, shard: int) -> Iterator[BinaryIO]:
        """Open a whole shard for reading.  Raises StorageError where it cannot be read."""
        try:
            descriptor = os.dup(self._open(shard))
        except OSError as error:
            location = redacted(self.manifest.shards[shard])
            raise StorageError(f"{location}: cannot be read: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            yield file

    def _open(self, shard: int) -> int:
        if (file := self._files.get(shard)) is not None:
            self._files.move_to_end(shard)
            return file
        self._make_room()
        location = self.manifest.shards[shard]
        file = self._open_cached(shard) if is_remote(location) else self._open_local(shard)
        self._files[shard] = file
        return file

    def _open_local(self, shard: int) -> int:
        location = self.manifest.shards[shard]
        file = os.open(location, os.O_RDONLY | os.O_NONBLOCK)  # opening a FIFO would wait
        status, known = os.fstat(file), self.manifest.identity(shard)["size"]
        fault = "" if stat.S_ISREG(status.st_mode) else "is no file"
        # Shards of a manifest file are not looked at when a run starts.
        if not fault and self.manifest.source is not None and status.st_size != known:
            fault = (
                f"has {status.st_size:,} bytes, and had {known:,} when {self.manifest.source.file} "
                "was made: restore it, or make the manifest again (mae index --out)"
            )
        if fault:
            os.close(file)
            raise StorageError(f"{location}: {fault}")
        return file

    def _open_cached(self, shard: int) -> int:
        location = self.manifest.shards[shard]
        if self.cache is None:
            raise StorageError(f"{redacted(location)}: remote shards need a cache")
        # Opened by the cache: it may delete the copy at any time.
        with self.cache.open(location, **self.manifest.identity(shard)) as file:
            return os.dup(file.fileno())

    def _make_room(self) -> None:
        """Close the least recently used shard, and all that the cache has deleted since."""
        for shard, file in list(self._files.items()):
            deleted = os.fstat(file).st_nlink == 0  # an open file keeps its disk space
            if deleted or len(self._files) >= OPEN_SHARDS:
                os.close(self._files.pop(shard))

    def _refresh(self, shard: int) -> None:
        """Close the shard, and delete the cached copy of a remote one."""
        if shard in self._files:
            with suppress(OSError):
                os.close(self._files.pop(shard))
        location = self.manifest.shards[shard]
        if self.cache is not None and is_remote(location):
            self.cache.discard(location, **self.manifest.identity(shard))

    def __reduce__(self) -> tuple:
        # File descriptors are not valid in another process: the copy opens its own.
        return ShardReader, (self.manifest, self.cache)

    def __del__(self) -> None:
        for file in self._files.values():
            with suppress(OSError):
                os.close(file)
