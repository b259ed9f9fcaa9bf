"""Comparison of files by their content, before packing: `mae pack --drop-duplicates`."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.divided_work import DividedWork, part_sizes
from mae.base.errors import SampleError
from mae.base.progress import ProgressLine
from mae.data.task_pool import on_workers
from mae.decoding.pixels import BadImage
from mae.pack.duplicates import DIGEST_WORDS, content_digest, exact_duplicates
from mae.pack.listing import UNKNOWN_SIZE, Listing

FILES_AT_ONCE = 256
"""files that a worker process compares per task"""


def find_copies(listing: Listing, work: DividedWork, workers: int) -> npt.NDArray[np.int64]:
    """(copy, original) [n 2]: numbers of files with the content of an earlier file.

    Only files of equal or unknown size are read, each by one process.
    """
    sizes, times = np.unique(listing.sizes, return_counts=True)
    several = sizes[(times > 1) | (sizes == UNKNOWN_SIZE)]
    suspects = np.flatnonzero(np.isin(listing.sizes, several))
    counts = part_sizes(len(suspects), FILES_AT_ONCE)

    def own(part: int) -> npt.NDArray[np.int64]:
        return suspects[part * counts[0] : (part + 1) * counts[0]]

    def compare() -> bytes:
        content = b"".join(work.results("digests", len(counts)))
        digests = np.frombuffer(content, "<u8").reshape(-1, DIGEST_WORDS)
        groups = exact_duplicates(digests)
        pairs = [(suspects[copy], suspects[group[0]]) for group in groups for copy in group[1:]]
        return np.array(sorted(pairs), "<i8").tobytes()

    read = on_workers(_DigestReader(listing), own, workers)
    show = ProgressLine("comparing", "files", work.portion.log)
    work.do("digests", counts, read, show, needs_all=True)  # the plan of each shard needs all
    return np.frombuffer(work.once("copies", compare), "<i8").reshape(-1, 2)


class _DigestReader(NamedTuple):
    """Task of the worker processes that compare files."""

    listing: Listing

    def __call__(self, images: npt.NDArray[np.int64]) -> bytes:
        """Content digests, one after the other; an unreadable file gets one of its own."""
        digests = []
        for image in images.tolist():
            try:
                data = self.listing.reader.read(self.listing.sources[image].reference)
                digests.append(content_digest(data))
            except (BadImage, SampleError):
                digests.append(content_digest(f"unreadable {image}".encode()))
        return b"".join(digests)
