"""Duplicates among images: exact ones by their bytes, near ones by their difference hashes."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DIGEST_WORDS = 2
"""64-bit words of a content digest"""
MAX_DISTANCE = 3
"""maximum Hamming distance of near duplicates in packing, in bits of 64"""
BANDS = {3: 4, 7: 8}
"""maximum distance → bands that a 64-bit hash is split into, one more than bits that may differ"""
PAIRS_AT_ONCE = 1 << 22
"""pairs of hashes compared at a time, which bounds the memory"""

Words = npt.NDArray[np.uint64]
Alike = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""numbers in the first and in the second set of some pairs → whether they are duplicates"""


def content_digest(data: bytes | bytearray) -> bytes:
    """128-bit BLAKE2b digest of an image file."""
    return hashlib.blake2b(data, digest_size=8 * DIGEST_WORDS).digest()


def exact_duplicates(digests: Words) -> list[npt.NDArray[np.int64]]:
    """Groups of two or more equal rows of `digests` [n 2], as row numbers in ascending order."""
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


class NearDuplicates(NamedTuple):
    """Images of a second set, each with its nearest image of a first set."""

    first: npt.NDArray[np.int64]
    """numbers in the first set"""
    second: npt.NDArray[np.int64]
    """numbers in the second set, ascending"""
    distance: npt.NDArray[np.int64]
    """Hamming distance of the hashes, in bits of 64"""


def near_duplicates(
    first: Words,
    second: Words,
    most: int = MAX_DISTANCE,
    *,
    earlier: bool = False,
    alike: Alike | None = None,
) -> NearDuplicates:
    """Hashes in `second` [m] within `most` bits (7 at most) of a hash in `first` [n].

    Hashes that differ in three bits are equal in at least one of four bands of 16 bits (in seven:
    one of eight), so only pairs with an equal band are compared.  Ties go to the lowest number in
    `first`.  `earlier`: both are one set, and only rows of lower numbers count.  `alike` decides
    on each pair that is near enough; then all of `first` are compared, else one of equal hashes.
    """
    bands = next(count for bits, count in sorted(BANDS.items()) if most <= bits)
    width = 64 // bands
    if alike is None:
        hashes, where = np.unique(first, return_index=True)
    else:
        hashes, where = first, np.arange(len(first))
    nearest = np.full(len(second), most + 1, np.int64)
    match = np.full(len(second), len(first), np.int64)
    for band in range(bands):
        shift, mask = np.uint64(width * band), np.uint64((1 << width) - 1)
        ours = (hashes >> shift) & mask
        theirs = (second >> shift) & mask
        order = np.argsort(ours, kind="stable")
        begin = np.searchsorted(ours[order], theirs, "left")
        count = np.searchsorted(ours[order], theirs, "right") - begin
        for low, high in _chunks(count):
            # All pairs of a hash of the second set and one of the first with an equal band.
            mine = np.repeat(np.arange(low, high), count[low:high])
            ends = np.cumsum(count[low:high])
            within = np.arange(len(mine)) - np.repeat(ends - count[low:high], count[low:high])
            candidate = order[begin[mine] + within]
            distance = np.bitwise_count(hashes[candidate] ^ second[mine]).astype(np.int64)
            near = distance <= most
            if earlier:
                near &= where[candidate] < mine
            if alike is not None:
                near[near] = alike(where[candidate[near]], mine[near])
            mine, candidate, distance = mine[near], where[candidate[near]], distance[near]
            best = np.lexsort((candidate, distance, mine))
            mine, at = np.unique(mine[best], return_index=True)
            candidate, distance = candidate[best][at], distance[best][at]
            better = (distance < nearest[mine]) | (
                (distance == nearest[mine]) & (candidate < match[mine])
            )
            nearest[mine[better]] = distance[better]
            match[mine[better]] = candidate[better]
    found = np.flatnonzero(nearest <= most)
    return NearDuplicates(match[found], found, nearest[found])


def _chunks(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges [low, high) of hashes with at most PAIRS_AT_ONCE pairs, or of one hash with more."""
    total = np.cumsum(counts)
    chunks, low = [], 0
    while low < len(counts):
        before = int(total[low - 1]) if low else 0
        high = int(np.searchsorted(total, before + PAIRS_AT_ONCE, "right"))
        chunks.append((low, max(high, low + 1)))
        low = chunks[-1][1]
    return chunks
