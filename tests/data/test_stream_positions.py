from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.data.stream_positions import CHUNK, StreamPositions


def received(positions, first, count=None):
    """The positions of each batch or single sample of one rank, in order."""
    rows = [np.asarray(one) for one in positions.ranges(first)]
    if positions.batch_size is None:
        rows = [row[None] for row in chain(*rows)]
    return rows[:count]


@st.composite
def phases(draw):
    """Batch size (None: single samples), and a number of ranks that divides it."""
    share, world = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    return draw(st.sampled_from([None, share * world])), world


@given(
    parts=st.lists(st.tuples(phases(), st.integers(0, 150)), max_size=4),
    last=phases(),
    total=st.integers(1, 500),
)
def test_any_stops_and_changes_of_ranks_leave_every_position_once(parts, last, total):
    """Also of batch sizes and single samples; the whole of the last batch beyond the end."""
    seen, first = [], 0
    for (batch_size, world), count in [*parts, (last, 10**6)]:
        ranks = [StreamPositions(batch_size, rank, world, total) for rank in range(world)]
        rows = [received(rank, first, count) for rank in ranks]
        assert len({len(own) for own in rows}) == 1  # no rank waits for another at the end
        for batch in zip(*rows, strict=True):
            seen += np.concatenate(batch).tolist()
        first = len(seen)
    assert seen == list(range(first)) and total <= first


@given(phase=phases(), total=st.integers(0, 300), stops=st.integers(0, 40))
def test_a_cut_end_gives_every_position_exactly_once(phase, total, stops):
    batch_size, world = phase
    ranks = [StreamPositions(batch_size, rank, world, total, is_cut=True) for rank in range(world)]
    whole = [received(rank, 0) for rank in ranks]
    assert sorted(np.concatenate([*chain(*whole), []]).tolist()) == list(range(total))
    assert [len(own) for own in whole] == [rank.count(total) for rank in ranks]
    first = min(total, stops * ranks[0].stride)
    rest = [received(rank, first) for rank in ranks]
    assert sorted(np.concatenate([*chain(*rest), []]).tolist()) == list(range(first, total))
    assert all(rank.end(first) == total for rank in ranks)


@given(phase=phases(), total=st.integers(1, 300))
def test_the_number_of_batches(phase, total):
    batch_size, world = phase
    for rank in range(world):
        positions = StreamPositions(batch_size, rank, world, total)
        assert positions.count(total) == len(received(positions, 0))


@pytest.mark.parametrize(("batch_size", "share"), [(12, 4), (None, CHUNK)])
def test_no_range_is_longer_than_the_share(batch_size, share):
    positions = StreamPositions(batch_size, 1, 3, 1000)
    assert positions.share == share
    assert max(map(len, positions.ranges(0))) == share


def test_without_an_end():
    ranges = StreamPositions(8, 1, 2).ranges(2**40)
    assert [next(ranges) for _ in range(2)] == [
        range(2**40 + 4, 2**40 + 8),
        range(2**40 + 12, 2**40 + 16),
    ]
