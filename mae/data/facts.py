"""Facts on a data set by which settings are chosen: number, size and channels of the images."""

from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from mae.base.errors import SampleError, UserError
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader
from mae.data.statistics import HEADERS, some_samples
from mae.decoding.decode import read_info
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.storage.cache import ShardCache

SOME_COLOUR = 0.1
"""share of colour images from which grey ones among them are read as colour, too"""
SAME_SHAPE = 1.1
"""ratio of high and low aspect ratios up to which images count as of one shape"""


class DataFacts(NamedTuple):
    """Training images: their number, and what most of some headers say."""

    images: int
    channels: int
    """colour channels, without alpha"""
    bits: int
    """bits per channel; 32: floats"""
    height: int
    """median, in pixels"""
    width: int
    """median, in pixels"""
    smallest: int
    """shortest side of all, in pixels"""
    aspects: tuple[float, float]
    """width / height: tenth and ninetieth percentile"""

    def __str__(self) -> str:
        kinds = {1: "grey", 3: "colour"}
        kind = kinds.get(self.channels, f"{self.channels} channels")
        size = f"{self.height} x {self.width} px"
        return f"{self.images:,} images of {size}, {kind}, {self.bits} bits"

    @property
    def short_side(self) -> int:
        """Shorter side of an image, in pixels."""
        return min(self.height, self.width)

    @property
    def has_one_shape(self) -> bool:
        """True where nearly all images have the same aspect ratio."""
        low, high = self.aspects
        return high <= SAME_SHAPE * low


def data_facts(manifest: Manifest, cache: ShardCache | None = None) -> DataFacts:
    """Facts on the images of a manifest, from the headers of at most HEADERS of them.

    Raises UserError where none of these images is usable, StorageError where a shard cannot be
    fetched.
    """
    reader = ShardReader(manifest, cache)
    kinds: Counter[tuple[int, int]] = Counter()
    sizes: list[tuple[int, int]] = []
    for sample in some_samples(manifest, HEADERS):
        with suppress(SampleError, BadImage):
            info = read_info(reader.read(sample), EXTENSIONS[manifest.kind[sample]])
            kinds[info.colours, info.bits] += 1
            sizes.append((info.height, info.width))
    if not sizes:
        raise UserError(f"{manifest.shard_name(0)}: no usable image among {HEADERS}")
    (channels, bits), _ = kinds.most_common(1)[0]
    if channels == 1 and kinds[3, bits] >= SOME_COLOUR * len(sizes):
        channels = 3  # grey images can be read as colour ones, not the reverse
    height, width = (int(side) for side in np.median(np.array(sizes), axis=0))
    low, high = np.percentile([w / h for h, w in sizes], [10, 90]).round(3).tolist()
    smallest = min(map(min, sizes))
    return DataFacts(len(manifest), channels, bits, height, width, smallest, (low, high))
