"""Copies among the images of a data set: equal bytes, and equal looks."""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DIGEST_WORDS = 2
BANDS = 4
FARTHEST = 3
PAIRS_AT_ONCE = 1 << 22

Words = npt.NDArray[np.uint64]


def content_digest(data: bytes | bytearray) -> bytes:
    """128 bits that are equal for equal content only."""
    return hashlib.blake2b(data, digest_size=8 * DIGEST_WORDS).digest()


def exact_copies(digests: Words) -> list[npt.NDArray[np.int64]]:
    """Groups of two or more rows of `digests` [n 2] that are equal, each in ascending order."""
    if len(digests) < 2:
        return []
    order = np.lexsort(digests.T)
    ordered = digests[order]
    changes = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    starts, ends = np.r_[0, changes], np.r_[changes, len(order)]
    several = np.flatnonzero(ends - starts > 1)
    # lexsort is stable, so that each group is in ascending order already.
    groups = [order[starts[i] : ends[i]] for i in several]
    return sorted(groups, key=lambda group: int(group[0]))


class Lookalikes(NamedTuple):
    """Pairs of images of two sets: for each of the second set, its nearest of the first."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    distance: npt.NDArray[np.int64]
    """bits of 64 that differ"""


def lookalikes(first: Words, second: Words) -> Lookalikes:
    """Hashes in `second` [m] that differ from one in `first` [n] by at most three bits.

    Of hashes that differ in three bits, at least one of four bands of 16 bits is equal; only
    those pairs are compared.  The nearest wins, then the lowest number.
    """
    hashes, where = np.unique(first, return_index=True)
    nearest = np.full(len(second), FARTHEST + 1, np.int64)
    match = np.full(len(second), len(first), np.int64)
    for band in range(BANDS):
        shift = np.uint64(16 * band)
        ours = (hashes >> shift) & np.uint64(0xFFFF)
        theirs = (second >> shift) & np.uint64(0xFFFF)
        order = np.argsort(ours, kind="stable")
        begin = np.searchsorted(ours[order], theirs, "left")
        count = np.searchsorted(ours[order], theirs, "right") - begin
        for low, high in _chunks(count):
            # All pairs of each hash of the second set with those of the first in its band.
            mine = np.repeat(np.arange(low, high), count[low:high])
            ends = np.cumsum(count[low:high])
            within = np.arange(len(mine)) - np.repeat(ends - count[low:high], count[low:high])
            candidate = order[begin[mine] + within]
            distance = np.bitwise_count(hashes[candidate] ^ second[mine]).astype(np.int64)
            near = distance <= FARTHEST
            mine, candidate, distance = mine[near], where[candidate[near]], distance[near]
            best = np.lexsort((candidate, distance, mine))
            mine, at = np.unique(mine[best], return_index=True)
            candidate, distance = candidate[best][at], distance[best][at]
            better = (distance < nearest[mine]) | (
                (distance == nearest[mine]) & (candidate < match[mine])
            )
            nearest[mine[better]] = distance[better]
            match[mine[better]] = candidate[better]
    found = np.flatnonzero(nearest <= FARTHEST)
    return Lookalikes(match[found], found, nearest[found])


def _chunks(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of a bounded number of pairs, or of one hash alone where it has more."""
    total = np.cumsum(counts)
    chunks, low = [], 0
    while low < len(counts):
        before = int(total[low - 1]) if low else 0
        high = int(np.searchsorted(total, before + PAIRS_AT_ONCE, "right"))
        chunks.append((low, max(high, low + 1)))
        low = chunks[-1][1]
    return chunks
