"""Decoded images of a manifest by number, and replacements of bad ones."""

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

ATTEMPTS = 32
"""maximum number of replacements tried for a bad sample"""
IN_THE_SAME_SHARD = 8
"""number of replacements drawn from the same shard, before those from the whole data set"""

Image = TypeVar("Image", bound=Tensor | JpegFile)


class BadSample(NamedTuple):
    """A sample that cannot be used."""

    sample: int
    """number in the manifest"""
    reason: str
    """shard, key and defect"""


class Images:
    """Decoded images of a manifest, by number."""

    def __init__(
        self, manifest: Manifest, channels: int, bits: int = 8, cache: ShardCache | None = None
    ) -> None:
        self.manifest = manifest
        self.channels = channels
        self.bits = bits
        self.reader = ShardReader(manifest, cache)

    def of(self, manifest: Manifest) -> "Images":
        """The images of another manifest, read in the same way."""
        return Images(manifest, self.channels, self.bits, self.reader.cache)

    def __getitem__(self, sample: int) -> Tensor:
        """[c h w], uint8 or (16 bits) uint16.

        Raises SampleError, naming shard and key, for a bad image, StorageError where the shard
        cannot be read.
        """
        return self.decoded(sample, self.reader.read(sample))

    def stored(self, sample: int) -> Tensor | JpegFile:
        """The image, or the undecoded JPEG where a device can decode it.  Raises as `[]` does."""
        data = self.reader.read(sample)
        return jpeg_for_device(data, self.channels) or self.decoded(sample, data)

    def decoded(self, sample: int, data: bytes | bytearray) -> Tensor:
        """Decode `data`, the bytes of `sample`; SampleError for a bad image."""
        extension = EXTENSIONS[self.manifest.kind.item(sample)]
        try:
            return decode(data, extension, self.channels, self.bits)
        except BadImage as error:
            raise SampleError(f"{self.manifest.name(sample)}: {error}") from None


class UsableImage(NamedTuple, Generic[Image]):
    """A usable image, its sample number, and the bad samples tried before it."""

    sample: int
    image: Image
    bad: list[BadSample]


def usable_image(
    read: Callable[[int], Image], manifest: Manifest, sample: int, seed: int, epoch: int
) -> UsableImage[Image]:
    """The image of `sample`, or of a replacement where that is bad.

    Replacements are a pure function of (seed, epoch, sample), from the same shard at first so that
    a process reads only its own shards.  Raises SampleError after ATTEMPTS bad replacements.
    """
    bad: dict[int, BadSample] = {}
    candidate = sample
    for attempt in range(ATTEMPTS):
        if candidate not in bad:
            try:
                return UsableImage(candidate, read(candidate), list(bad.values()))
            except SampleError as error:
                bad[candidate] = BadSample(candidate, str(error))
        candidate = replacement(manifest, sample, seed, epoch, attempt)
    raise SampleError(f"{bad[sample].reason} (and its replacements are bad too: {len(bad) - 1})")


def replacement(manifest: Manifest, sample: int, seed: int, epoch: int, attempt: int) -> int:
    """The sample number of replacement `attempt`, a pure function of the arguments."""
    word = int(fold(seed, Stream.REPLACEMENT, epoch, sample, attempt)[0])
    if attempt >= IN_THE_SAME_SHARD:
        return word % len(manifest)
    shard = int(manifest.shard[sample])
    first = int(manifest.first[shard])
    return first + word % int(manifest.counts()[shard])
