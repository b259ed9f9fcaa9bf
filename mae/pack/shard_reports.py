"""Reports on the images of written shards, which mark them as done, and what they say together."""

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.pack.duplicates import DIGEST_WORDS
from mae.pack.shard_plan import ShardTask

IMAGE_ROW = np.dtype(
    [
        ("image", "<i8"),  # number in the listing
        ("position", "<i8"),  # in the split, skipped images counted too
        ("bytes_in", "<i8"),
        ("bytes_out", "<i8"),
        # The image as stored:
        ("height", "<i8"),
        ("width", "<i8"),
        ("channels", "<i8"),  # without alpha
        ("bits", "<i8"),
        ("digest", "<u8", (DIGEST_WORDS,)),  # of the source's bytes
        ("look", "<u8"),  # difference hash of the source
        ("has_look", "?"),
        ("deviation", "<f8"),  # of the source's gray pixels, in [0, 255]; nan for floats
        ("cost", "<f8"),  # mean absolute difference in [0, 255]; nan where it was not measured
    ]
)


class ShardReport(NamedTuple):
    """Report on the images of one written shard."""

    images: npt.NDArray[np.void]
    """one row of type IMAGE_ROW for each packed image"""
    skipped: npt.NDArray[np.int64]
    """numbers of the skipped images in the listing"""
    reasons: npt.NDArray[np.str_]
    """reason for skipping each of them"""


class Reports(NamedTuple):
    """Reports on all shards together."""

    tasks: Sequence[ShardTask]
    counts: npt.NDArray[np.int64]
    """number of packed images of each shard"""
    images: npt.NDArray[np.void]
    """one row of type IMAGE_ROW for each packed image, in the order of the shards"""
    skipped: Sequence[tuple[str, int, str]]
    """(split, number in the listing, reason) of the skipped images"""

    @property
    def splits(self) -> list[str]:
        """Names of the splits, `train` first."""
        return sorted({task.split for task in self.tasks}, key=lambda name: (name != "train", name))

    def written(self, split: str) -> list[str]:
        """Names of the shards of a split; one without a usable image is not written."""
        return [
            task.name
            for task, count in zip(self.tasks, self.counts, strict=True)
            if task.split == split and count
        ]


def to_bytes(report: ShardReport) -> bytes:
    """Report as the content of an .npz file."""
    file = io.BytesIO()
    np.savez(file, images=report.images, skipped=report.skipped, reasons=report.reasons)
    return file.getvalue()


def from_bytes(content: bytes) -> ShardReport:
    """Report from the bytes of `to_bytes`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return ShardReport(arrays["images"], arrays["skipped"], arrays["reasons"])


def read_reports(tasks: Sequence[ShardTask], contents: Iterable[bytes]) -> Reports:
    """Combine the reports on `tasks`, each from the bytes of `to_bytes`, holding one at a time."""
    images = np.empty(sum(len(task.images) for task in tasks), IMAGE_ROW)
    counts = np.zeros(len(tasks), np.int64)
    skipped: list[tuple[str, int, str]] = []
    end = 0
    for number, (task, content) in enumerate(zip(tasks, contents, strict=True)):
        report = from_bytes(content)
        counts[number] = len(report.images)
        images[end : end + len(report.images)] = report.images
        end += len(report.images)
        reasons = zip(report.skipped.tolist(), report.reasons.tolist(), strict=True)
        skipped += [(task.split, image, reason) for image, reason in reasons]
    return Reports(tasks, counts, images[:end], skipped)
