"""Decoded images of a manifest by number, and replacements of bad ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.base.hashing import Stream, fold
from mae.config.sections import DataConfig
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader
from mae.decoding.decode import decode, is_lossy
from mae.decoding.on_device import JpegFile, jpeg_for_device
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.objectives.declaration import DataNeeds
from mae.storage.cache import ShardCache

ATTEMPTS = 32
"""maximum number of replacements tried for a bad sample"""
IN_THE_SAME_SHARD = 8
"""number of replacements drawn from the same shard, before those from the whole data set"""

LOSSY = (
    "is compressed with loss (JPEG, AVIF or lossy WebP), which changes the noise: this objective "
    "needs the original files, as PNG, TIFF or .npy"
)

NO_NEEDS = DataNeeds()

Image = TypeVar("Image")
Made = TypeVar("Made")


class BadSample(NamedTuple):
    """A sample that cannot be used."""

    sample: int
    """number in the manifest"""
    reason: str
    """shard, key and defect"""


class Usable(NamedTuple, Generic[Made]):
    """Results for the usable ones of some samples, and the bad ones."""

    made: dict[int, Made]
    """number of a sample → its result, in the order of the samples"""
    bad: list[BadSample]


def usable(samples: Iterable[int], make: Callable[[int], Made]) -> Usable[Made] | UserError:
    """Results of `make` for each sample that raises no SampleError, in data workers.

    Another UserError, as of an unreadable shard, is returned: raised in a worker, torch would wrap
    it.
    """
    found = Usable[Made]({}, [])
    for sample in samples:
        try:
            found.made[sample] = make(sample)
        except SampleError as error:
            found.bad.append(BadSample(sample, str(error)))
        except UserError as error:
            return error
    return found


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel of floats; integers are left to the models."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, values: Tensor) -> Tensor:
        """Normalised floats [c h w], or integers as they are."""
        if not values.is_floating_point():
            return values
        mean, std = self._by_channel()
        return (values - mean) / std

    def undo(self, values: Tensor) -> Tensor:
        """Floats [c h w] as they were before `of`, or integers as they are."""
        if not values.is_floating_point():
            return values
        mean, std = self._by_channel()
        return values * std + mean

    def _by_channel(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)


def float_normalisation(data: DataConfig) -> Normalisation:
    """Normalisation of the floats of a run."""
    return Normalisation(data.mean, data.std)


class Images:
    """Decoded images of a manifest, by number; those of a pair stacked along the channels."""

    def __init__(
        self,
        manifest: Manifest,
        channels: int,
        bits: int = 8,
        cache: ShardCache | None = None,
        needs: DataNeeds = NO_NEEDS,
        normalisation: Normalisation | None = None,
    ) -> None:
        """`channels` of one image; `needs` of the objective that they are for.

        `normalisation` of floats (`bits` 32) where they are read; None: they stay as they are.
        """
        self.manifest = manifest
        self.channels = channels
        self.bits = bits
        self.needs = needs
        self.normalisation = normalisation
        self.reader = ShardReader(manifest, cache)
        second = manifest.second
        settings = channels, bits, cache, needs, normalisation
        self.second = None if second is None else Images(second, *settings)

    def of(self, manifest: Manifest) -> "Images":
        """The images of another manifest, read in the same way."""
        settings = self.channels, self.bits, self.reader.cache, self.needs
        return Images(manifest, *settings, self.normalisation)

    def __getitem__(self, sample: int) -> Tensor:
        """[c h w], or [2c h w] of a pair; uint8, (16 bits) uint16 or (32 bits) float32.

        Raises SampleError, naming shard and key, for a bad image, StorageError where the shard
        cannot be read, UserError for a lossy file where `needs` forbids them.
        """
        image = self.decoded(sample, self.reader.read(sample))
        if self.second is None:
            return image
        other = self.second[sample]
        if other.shape != image.shape:
            sizes = [f"{one.shape[1]} x {one.shape[2]}" for one in (image, other)]
            name = self.second.manifest.name(sample)
            raise SampleError(f"{name}: {sizes[1]} pixels, but {sizes[0]} of the first of the pair")
        return torch.cat([image, other])

    def covering(self, sample: int, size: tuple[int, int]) -> Tensor:
        """The image, for views of `size`; SampleError also where they do not fit, if native."""
        image = self[sample]
        if self.needs.native_crops:
            require_covers(image.shape[-2:], size, self.manifest.name(sample))
        return image

    def stored(self, sample: int) -> Tensor | JpegFile:
        """The image, or the undecoded JPEG where a device can decode it.  Raises as `[]` does."""
        data = self.reader.read(sample)
        return jpeg_for_device(data, self.channels) or self.decoded(sample, data)

    def decoded(self, sample: int, data: bytes | bytearray) -> Tensor:
        """Decode `data`, the bytes of `sample`; SampleError for a bad image."""
        extension = EXTENSIONS[self.manifest.kind.item(sample)]
        if self.needs.lossless and is_lossy(data, extension):
            raise UserError(f"{self.manifest.name(sample)}: {LOSSY}")
        try:
            image = decode(data, extension, self.channels, self.bits)
            return self.normalisation.of(image) if self.normalisation else image
        except BadImage as error:
            raise SampleError(f"{self.manifest.name(sample)}: {error}") from None


def require_covers(sides: Sequence[int], size: tuple[int, int], name: str) -> None:
    """Raise SampleError, naming the image, where its height or width is below that of `size`."""
    height, width = sides
    if height < size[0] or width < size[1]:
        raise SampleError(
            f"{name}: {height} x {width} pixels are smaller than crops of {size[0]} x {size[1]}, "
            "which are not resized here: choose a smaller data.img_size"
        )


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
    shard = manifest.shard_of(sample)
    first = int(manifest.first[shard])
    return first + word % int(manifest.counts()[shard])
