"""Decoded images of a manifest by number, and what takes the place of one that is bad."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from mae.base.errors import SampleError
from mae.base.hashing import Stream, fold
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader
from mae.decoding.decode import decode
from mae.decoding.on_device import JpegFile, jpeg_for_device
from mae.decoding.pillow import BadImage
from mae.decoding.pixels import EXTENSIONS
from mae.storage.cache import ShardCache

IN_THE_SAME_SHARD = 8
ATTEMPTS = 32

Image = TypeVar("Image", bound=Tensor | JpegFile)


class BadSample(NamedTuple):
    """A sample that cannot be used."""

    sample: int
    """number in the manifest"""
    reason: str
    """shard, key and what is wrong"""


class Images:
    """Decoded images of a manifest, by number."""

    def __init__(
        self, manifest: Manifest, channels: int, bits: int = 8, cache: ShardCache | None = None
    ) -> None:
        self.manifest = manifest
        self.channels = channels
        self.bits = bits
        self.reader = ShardReader(manifest, cache)

    def __getitem__(self, sample: int) -> Tensor:
        """[c h w], uint8 or (16 bits) uint16.

        Raises SampleError, naming shard and key, for a bad image, StorageError where the shard
        cannot be read.
        """
        return self.decoded(sample, self.reader.read(sample))

    def stored(self, sample: int) -> Tensor | JpegFile:
        """The same, but a JPEG as it is where a device may decode it."""
        data = self.reader.read(sample)
        return jpeg_for_device(data, self.channels) or self.decoded(sample, data)

    def decoded(self, sample: int, data: bytes | bytearray) -> Tensor:
        """The image that `data`, read of `sample`, is; SampleError for a bad one."""
        extension = EXTENSIONS[self.manifest.kind.item(sample)]
        try:
            return decode(data, extension, self.channels, self.bits)
        except BadImage as error:
            raise SampleError(f"{self.manifest.name(sample)}: {error}") from None


class Usable(NamedTuple, Generic[Image]):
    """An image, the sample that it is of, and those that were tried in vain."""

    sample: int
    image: Image
    bad: list[BadSample]


def usable_image(
    read: Callable[[int], Image], manifest: Manifest, sample: int, seed: int, epoch: int
) -> Usable[Image]:
    """The image of `sample`, or of another one where that is bad.

    Which one is drawn from (seed, epoch, sample), from the same shard at first, so that a process
    goes on reading its own shards only.  Raises SampleError where ATTEMPTS draws find none.
    """
    bad: dict[int, BadSample] = {}
    candidate = sample
    for attempt in range(ATTEMPTS):
        if candidate not in bad:
            try:
                return Usable(candidate, read(candidate), list(bad.values()))
            except SampleError as error:
                bad[candidate] = BadSample(candidate, str(error))
        candidate = replacement(manifest, sample, seed, epoch, attempt)
    raise SampleError(f"{bad[sample].reason} (and its replacements are bad too: {len(bad) - 1})")


def replacement(manifest: Manifest, sample: int, seed: int, epoch: int, attempt: int) -> int:
    """The sample to try next, a pure function of its arguments."""
    word = int(fold(seed, Stream.REPLACEMENT, epoch, sample, attempt)[0])
    if attempt >= IN_THE_SAME_SHARD:
        return word % len(manifest)
    shard = int(manifest.shard[sample])
    first = int(manifest.first[shard])
    return first + word % int(manifest.counts()[shard])
