"""Plan of `mae pack`: assignment of images to shards."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.hashing import fold
from mae.data.class_names import ENCODING
from mae.pack.listing import UNKNOWN_SIZE, Listing

TAR_BLOCKS = 3 * 512
"""bytes of a sample in a tar besides the image: two headers and up to a block of padding"""


class PackOptions(NamedTuple):
    """Settings of the shards' size, split, shuffle and encoding."""

    shard_size: int = 1000
    """maximum number of images per shard"""
    shard_bytes: int | None = None
    """maximum bytes of source files per shard (one image may be larger); None: no limit"""
    val_fraction: float = 0.0
    """fraction of the training images that become the split `val`"""
    seed: int = 0
    """random seed of the shuffle"""
    resize: int | None = None
    """maximum short side in pixels; larger images are reduced; None: sizes are kept"""
    quality: int | None = None
    """JPEG quality, 1 to 100; None: images are encoded anew only where they are resized"""
    drop_duplicates: bool = False
    """pack only the first of several files with equal content"""
    val_by_name: bool = False
    """hold out about `val_fraction` of the images by a hash of their names: other files added or
    removed later move none of them to the other side"""


class ShardTask(NamedTuple):
    """Images to write into one shard."""

    split: str
    number: int
    """number of the shard in its split"""
    first: int
    """position of the first image in its split"""
    images: npt.NDArray[np.int64]
    """numbers of the images in the listing"""

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"{self.split}-{self.number:06d}.tar"


def plan_shards(
    listing: Listing, options: PackOptions, dropped: npt.NDArray[np.int64]
) -> list[ShardTask]:
    """Shuffle the images of each split and assign them to shards; `train` comes last.

    `dropped` are the numbers of images that are not packed.  Raises UserError where the
    validation split would be empty, or everything, or exists already.
    """
    is_dropped = np.zeros(len(listing.sources), bool)
    is_dropped[dropped] = True
    splits: dict[str, npt.NDArray[np.int64]] = {}
    start = 0
    for name, count in listing.splits:
        numbers = start + np.flatnonzero(~is_dropped[start : start + count])
        splits[name] = numbers[np.argsort(fold(options.seed, numbers), kind="stable")]
        start += count
    if options.val_fraction:
        if "val" in splits:
            raise UserError(f"--val: {listing.name} has its own validation images")
        train = splits["train"]
        num_val = round(len(train) * options.val_fraction)
        if not 0 < num_val < len(train):
            raise UserError(
                f"--val {options.val_fraction:g}: selects {num_val} of {len(train)} images; "
                "both splits need at least one"
            )
        if options.val_by_name:
            is_val = _held_out_by_name(listing, train, options.val_fraction)
        else:
            is_val = np.arange(len(train)) < num_val
        splits["val"], splits["train"] = train[is_val], train[~is_val]
    tasks = []
    for name in sorted(splits, key=lambda name: (name == "train", name)):
        bounds = list(_bounds(listing.sizes[splits[name]], options))
        for number, (first, last) in enumerate(bounds):
            tasks.append(ShardTask(name, number, first, splits[name][first:last]))
    return tasks


def _held_out_by_name(
    listing: Listing, numbers: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.bool_]:
    """True for the images whose names' hashes, as numbers in [0, 1), are below `share`.

    At least one is, and one is not.
    """
    hashes = np.array([_hash(listing.name_of(int(number))) for number in numbers])
    is_val = hashes < share
    is_val[hashes.argmin()], is_val[hashes.argmax()] = True, False
    return is_val


def _hash(name: str) -> float:
    """Number in [0, 1) from a name."""
    return int.from_bytes(hashlib.sha256(name.encode(*ENCODING)).digest()[:8]) / 2**64


def _bounds(sizes: npt.NDArray[np.int64], options: PackOptions) -> Iterator[tuple[int, int]]:
    """Range [first, last) of each shard, full by number of images or by bytes."""
    if options.shard_bytes is None:
        starts = range(0, len(sizes), options.shard_size)
        yield from ((start, min(start + options.shard_size, len(sizes))) for start in starts)
        return
    if (sizes == UNKNOWN_SIZE).any():
        raise UserError("--shard-mb: needs image files, which this data set has not: --shard-size")
    first, total = 0, 0
    for position, size in enumerate((sizes + TAR_BLOCKS).tolist()):
        full = position - first == options.shard_size or total + size > options.shard_bytes
        if full and position > first:
            yield first, position
            first, total = position, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)


def sample_key(split: str, position: int) -> str:
    """WebDataset key of the image at a position of its split."""
    return f"{split}-{position:09d}"
