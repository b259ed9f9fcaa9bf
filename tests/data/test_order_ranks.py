"""Positions of up to 1,024 ranks in the order: every sample once, global batches alike."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from mae.config.sections import DataConfig
from mae.data.batch import BatchSharding
from mae.data.order import Order
from mae.data.stream_positions import StreamPositions
from mae.data.training_data import build_order

WORLDS = [1, 2, 3, 8, 60, 128, 1000, 1024]
MOST = 1500
"""samples of a data set, more than there must be"""


class Counts(NamedTuple):
    """Stands for a manifest: samples of each shard."""

    counts: np.ndarray

    def dataset_counts(self):
        return [self.counts]


class Run(NamedTuple):
    """A data set in an order, as `mae pretrain` and `ShardStream` make it."""

    order: Order
    worlds: list[int]
    """numbers of ranks that may share its batches"""
    batch_size: int
    repeats: int


@st.composite
def runs(draw):
    """Any order of any shards with a batch for up to 1,024 ranks."""
    mode = draw(st.sampled_from(["global", "window", "lanes"]))
    world = draw(st.sampled_from(WORLDS))
    lanes = world * draw(st.integers(1, 1 + (world < 100))) if mode == "lanes" else 1
    repeats = draw(st.integers(1, 2))
    # Not too many steps, each of which costs time here.
    share = draw(st.integers(1, 3)) if world > 50 else draw(st.integers(10, 40))
    batch_size = max(lanes, world) * repeats * share
    # An epoch may end more than once in a batch, but each end costs time here.
    fewest = max(lanes, batch_size // 3)
    samples = draw(st.integers(fewest, fewest + MOST))
    cuts = draw(st.lists(st.integers(0, samples), max_size=60))
    counts: Any = Counts(np.diff([0, *sorted(cuts), samples]))
    config = DataConfig(
        order=mode, window=draw(st.integers(1, 9)), lanes=lanes, repeats=repeats, train=("x.tar",)
    )
    order = build_order(config, counts, draw(st.integers(0, 2**63 - 1)), batch_size)
    divisors = [n for n in WORLDS if (lanes if mode == "lanes" else batch_size) % n == 0]
    return Run(order, divisors, batch_size, repeats)


def trained(run, world, accumulation, first, last):
    """Positions [steps, batch] that the ranks of a training run read in steps first to last."""
    ranks = [BatchSharding(run.batch_size, world, rank, accumulation) for rank in range(world)]
    read = [list(rank.micro_batches(first, last)) for rank in ranks]
    assert {len(one) for rank in read for one in rank} == {ranks[0].device_batch}
    return as_steps(read, last - first)


def streamed(run, world, first, last):
    """Positions [steps, batch] of the ranks of a `ShardStream` that ends after step `last`."""
    ranks = [
        StreamPositions(run.batch_size, rank, world, last * run.batch_size) for rank in range(world)
    ]
    return as_steps([list(rank.ranges(first * run.batch_size)) for rank in ranks], last - first)


def as_steps(read, steps):
    """[steps, batch]: of each rank's ranges as many per step, one rank after the other."""
    rows = [np.concatenate([np.arange(*_ends(one)) for one in rank]) for rank in read]
    return np.concatenate([row.reshape(steps, -1) for row in rows], axis=1)


def _ends(positions):
    assert positions.step == 1
    return positions.start, positions.stop


@effort(max_examples=12)
@given(run=runs(), first_epoch=st.sampled_from([0, 1]), data=st.data())
def test_ranks_read_each_sample_once_per_epoch_in_the_same_global_batches(run, first_epoch, data):
    size, per_epoch = len(run.order), len(run.order) * run.repeats
    # A lane that is one sample shorter is ahead by one sample an epoch.
    ahead = (first_epoch + 1) * run.order.lanes * run.repeats
    first = max(0, first_epoch * per_epoch - ahead) // run.batch_size
    last = -(-((first_epoch + 1) * per_epoch + ahead) // run.batch_size)
    world = data.draw(st.sampled_from(run.worlds))
    share = run.batch_size // world
    accumulation = data.draw(st.sampled_from([n for n in (1, 2, 3) if share % n == 0]))
    positions = trained(run, world, accumulation, first, last)
    place = run.order(positions.ravel())

    # Every view of the epoch of every sample, once; nothing twice in the epochs around it.
    views = place.view - first_epoch * run.repeats
    of_epoch = (views >= 0) & (views < run.repeats)
    seen = np.bincount(views[of_epoch] * size + place.sample[of_epoch], minlength=per_epoch)
    assert np.array_equal(seen, np.ones(per_epoch))
    assert len(np.unique(place.view * size + place.sample)) == len(place.sample)

    # Other numbers of ranks read other parts of the same global batches.
    other = data.draw(st.sampled_from(run.worlds))
    for again in (trained(run, other, 1, first, last), streamed(run, other, first, last)):
        assert np.array_equal(again, positions)

    # What a rank reads by itself is what it has in the whole.
    rank, step = data.draw(st.integers(0, world - 1)), data.draw(st.integers(0, last - first - 1))
    own = slice(rank * share, (rank + 1) * share)
    alone = run.order(positions[step, own])
    assert alone.sample.tolist() == place.sample.reshape(positions.shape)[step, own].tolist()


@effort(max_examples=15)
@given(
    world=st.sampled_from(WORLDS), samples=st.integers(1, 2 * MOST), seed=st.integers(0, 2**63 - 1)
)
def test_ranks_that_take_single_samples_read_each_once(world, samples, seed):
    order = Order(seed, [np.full(samples, 1)], mode="window", window=64)
    ranks = [StreamPositions(None, rank, world, samples, is_cut=True) for rank in range(world)]
    read = [np.concatenate([[], *rank.ranges(0)]) for rank in ranks]
    assert max(map(len, read)) - min(map(len, read)) <= 1
    found = order(np.concatenate(read).astype(np.int64)).sample
    assert np.array_equal(np.sort(found), np.arange(samples))
