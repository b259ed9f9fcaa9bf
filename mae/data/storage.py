"""Bytes of a sample: one `pread` on a local shard."""

import os
from collections import OrderedDict

from mae.data.manifest import Manifest
from mae.errors import SampleError

OPEN_SHARDS = 64


class ShardReader:
    """Reads samples by number; keeps the shards used last open."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._files: OrderedDict[int, int] = OrderedDict()

    def read(self, sample: int) -> bytearray:
        """Bytes as stored.  Raises SampleError, naming shard and key, where they are gone."""
        manifest = self.manifest
        data = bytearray(int(manifest.size[sample]))
        try:
            file = self._open(int(manifest.shard[sample]))
            got, offset, rest = 0, int(manifest.offset[sample]), memoryview(data)
            while got < len(data) and (more := os.preadv(file, [rest[got:]], offset + got)):
                got += more  # network file systems may answer in parts
        except OSError as error:
            raise SampleError(
                f"{manifest.name(sample)}: cannot be read: {error.strerror}"
            ) from None
        if got < len(data):
            raise SampleError(
                f"{manifest.name(sample)}: {got} of {len(data)} bytes are there: "
                "the shard changed while in use"
            )
        return data

    def _open(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= OPEN_SHARDS:
            os.close(self._files.popitem(last=False)[1])
        file = os.open(self.manifest.shards[shard], os.O_RDONLY)
        self._files[shard] = file
        return file

    def __reduce__(self) -> tuple:
        # Open files belong to this process: a copy sent to another one opens its own.
        return ShardReader, (self.manifest,)

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)
