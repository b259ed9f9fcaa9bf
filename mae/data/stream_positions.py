"""Positions of the order that one rank of a stream receives: batches or single samples."""

from collections.abc import Iterator
from typing import NamedTuple

CHUNK = 64
"""single samples that are loaded at a time"""
ENDLESS = 2**62


class StreamPositions(NamedTuple):
    """Division of the order's positions among ranks.

    A batch of B positions is cut into one part for each rank; single samples are dealt out, one
    to each rank in turn.  So the next batch begins where all ranks have received as many.
    """

    batch_size: int | None
    """positions of a batch over all ranks; None: single samples"""
    rank: int
    world_size: int
    total: int | None = None
    """number of positions of the whole stream; None: without end"""
    is_cut: bool = False
    """True: the last batch ends with the stream, smaller or missing on some ranks; False: it is
    whole, with positions beyond the end"""

    @property
    def stride(self) -> int:
        """Positions from one batch or single sample of a rank to its next."""
        return self.batch_size or self.world_size

    @property
    def share(self) -> int:
        """Largest number of positions of a range."""
        return self.batch_size // self.world_size if self.batch_size else CHUNK

    def end(self, first: int) -> int:
        """Position at which an iteration from `first` ends."""
        if self.total is None:
            return ENDLESS
        end = max(first, self.total)
        return end if self.is_cut else end + (first - end) % self.stride

    def ranges(self, first: int) -> Iterator[range]:
        """Positions of this rank from `first` on: a range for each batch or CHUNK of samples."""
        rank, world, size, end = self.rank, self.world_size, self.batch_size, self.end(first)
        for start in range(first, end, size or CHUNK * world):
            if size:
                own = start + rank * self.share
                positions = range(own, min(own + self.share, end))
            else:
                positions = range(start + rank, min(start + CHUNK * world, end), world)
            if positions:
                yield positions

    def count(self, total: int) -> int:
        """Batches or single samples of this rank in `total` positions."""
        whole, rest = divmod(total, self.stride)
        own = self.rank * (self.share if self.batch_size else 1) if self.is_cut else 0
        return whole + (rest > own)
