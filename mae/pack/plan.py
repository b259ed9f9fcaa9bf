"""The plan of `mae pack`: which images go into which shard, and what became of them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.hashing import fold
from mae.pack.duplicates import DIGEST_WORDS
from mae.pack.sources import UNKNOWN, Listing
from mae.pack.unfinished import write_whole

TAR_BLOCKS = 3 * 512
"""two headers and what the image leaves of its last block, at most; a label has a block more"""


class PackOptions(NamedTuple):
    """Plan of images and shards."""

    shard_size: int = 1000
    """images per shard, at most"""
    shard_bytes: int | None = None
    """bytes of source files per shard, at most (one image may be larger)"""
    val_fraction: float = 0.0
    """share of the training images that is set aside"""
    seed: int = 0
    """of the shuffle"""
    resize: int | None = None
    """short side in pixels, at most"""
    quality: int | None = None
    """of JPEG"""
    drop_duplicates: bool = False
    """of files with equal content only the first is packed"""


class ShardTask(NamedTuple):
    """Images of a shard."""

    split: str
    number: int
    first: int
    """position in its split of the first image"""
    images: npt.NDArray[np.int64]
    """numbers in the listing"""

    @property
    def name(self) -> str:
        """Name of the shard, without `.tar`."""
        return f"{self.split}-{self.number:06d}"


PACKED = np.dtype(
    [
        ("image", "<i8"),  # number in the listing
        ("position", "<i8"),  # in the split, counting those left out
        ("bytes_in", "<i8"),
        ("bytes_out", "<i8"),
        # The image as stored:
        ("height", "<i8"),
        ("width", "<i8"),
        ("channels", "<i8"),  # alpha not counted
        ("bits", "<i8"),
        ("digest", "<u8", (DIGEST_WORDS,)),  # of the source's bytes
        ("look", "<u8"),  # difference hash of the source
        ("has_look", "?"),
        ("cost", "<f8"),  # mean absolute difference, of 255; nan where it was not measured
    ]
)


class ShardReport(NamedTuple):
    """Report on the images of a shard."""

    images: npt.NDArray[np.void]
    """one row of type PACKED for each image packed"""
    skipped: npt.NDArray[np.int64]
    """numbers in the listing of those left out"""
    reasons: npt.NDArray[np.str_]


def plan_shards(
    listing: Listing, options: PackOptions, dropped: npt.NDArray[np.int64]
) -> list[ShardTask]:
    """All shards, those set aside first.  Raises UserError for splits that cannot be made."""
    gone = np.zeros(len(listing.sources), bool)
    gone[dropped] = True
    splits: dict[str, npt.NDArray[np.int64]] = {}
    start = 0
    for name, count in listing.splits:
        numbers = start + np.flatnonzero(~gone[start : start + count])
        splits[name] = numbers[np.argsort(fold(options.seed, numbers), kind="stable")]
        start += count
    if options.val_fraction:
        if "val" in splits:
            raise UserError(f"--val: {listing.name} has validation images of its own")
        train = splits["train"]
        num_val = round(len(train) * options.val_fraction)
        if not 0 < num_val < len(train):
            raise UserError(f"--val {options.val_fraction:g}: is {num_val} of {len(train)} images")
        splits["val"], splits["train"] = train[:num_val], train[num_val:]
    tasks = []
    for name in sorted(splits, key=lambda name: (name == "train", name)):
        bounds = list(_bounds(listing.sizes[splits[name]], options))
        for number, (first, last) in enumerate(bounds):
            tasks.append(ShardTask(name, number, first, splits[name][first:last]))
    return tasks


def _bounds(sizes: npt.NDArray[np.int64], options: PackOptions) -> Iterator[tuple[int, int]]:
    """[first, last) of each shard, full by count or by bytes."""
    if options.shard_bytes is None:
        starts = range(0, len(sizes), options.shard_size)
        yield from ((start, min(start + options.shard_size, len(sizes))) for start in starts)
        return
    if (sizes == UNKNOWN).any():
        raise UserError("--shard-mb: this data set's images are no files: use --shard-size")
    first, total = 0, 0
    for position, size in enumerate((sizes + TAR_BLOCKS).tolist()):
        full = position - first == options.shard_size or total + size > options.shard_bytes
        if full and position > first:
            yield first, position
            first, total = position, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes)


def key_of(split: str, position: int) -> str:
    """The key of the image at a position of its split."""
    return f"{split}-{position:09d}"


def finished(folder: Path, task: ShardTask) -> bool:
    """True where the shard was written before, by an attempt with the same plan."""
    return report_file(folder, task).exists()


def load_report(folder: Path, task: ShardTask) -> ShardReport:
    """The report of a finished shard."""
    with np.load(report_file(folder, task), allow_pickle=False) as arrays:
        return ShardReport(arrays["images"], arrays["skipped"], arrays["reasons"])


def delete_report(folder: Path, task: ShardTask) -> None:
    """Delete the report of a shard, which is no part of the result."""
    report_file(folder, task).unlink()


def report_file(folder: Path, task: ShardTask) -> Path:
    """The file of `save_report`."""
    return folder / f"{task.name}.npz"


def save_report(path: Path, rows: list[tuple], skipped: list[tuple[int, str]]) -> None:
    """Write the report of a shard: rows of type PACKED, and images left out with their reasons."""
    file = io.BytesIO()
    np.savez(
        file,
        images=np.array(rows, PACKED),
        skipped=np.array([number for number, _ in skipped], np.int64),
        reasons=np.array([reason for _, reason in skipped], np.str_),
    )
    write_whole(path, file.getvalue())
