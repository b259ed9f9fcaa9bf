import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.data.loader import Slices
from mae.data.order import sample_at

SIZES = [1, 2, 3, 5, 7, 31, 97, 1009, *(2**k + d for k in (2, 4, 10, 11) for d in (-1, 0, 1))]


def epoch_of(seed, size, epoch):
    """The samples of one epoch, in order."""
    place = sample_at(seed, size, np.arange(epoch * size, (epoch + 1) * size))
    assert (place.epoch == epoch).all()
    return place.sample


def test_golden_vectors():
    # Written down once: a change makes every run continue with other images.
    epochs, samples = sample_at(0, 10, np.arange(20))
    assert epochs.tolist() == [0] * 10 + [1] * 10
    assert samples.tolist() == [8, 5, 1, 4, 9, 2, 6, 0, 7, 3, 0, 4, 7, 1, 8, 3, 9, 6, 2, 5]
    epochs, samples = sample_at(7, 1000, np.array([0, 1, 999, 1000, 10**12]))
    assert epochs.tolist() == [0, 0, 0, 1, 10**9]
    assert samples.tolist() == [14, 277, 6, 796, 225]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("epoch", [0, 1, 10**6])
def test_every_sample_once_per_epoch(size, epoch):
    assert np.array_equal(np.sort(epoch_of(0, size, epoch)), np.arange(size))


@given(seed=st.integers(0, 2**63 - 1), size=st.integers(1, 3000), epoch=st.integers(0, 10**9))
def test_every_sample_once_per_epoch_of_any_seed_and_size(seed, size, epoch):
    assert np.array_equal(np.sort(epoch_of(seed, size, epoch)), np.arange(size))


def test_epochs_and_seeds_differ():
    orders = [epoch_of(seed, 100, epoch) for seed in range(5) for epoch in range(5)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.1  # of 100, 1 agrees on average


@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 500),
    positions=st.lists(st.integers(0, 10**15), min_size=1, max_size=20),
)
def test_a_position_depends_on_nothing_beside_it(seed, size, positions):
    together = sample_at(seed, size, np.array(positions))
    alone = [sample_at(seed, size, np.array([position])) for position in positions]
    assert together.epoch.tolist() == [place.epoch.item() for place in alone]
    assert together.sample.tolist() == [place.sample.item() for place in alone]


def test_starts_anywhere_without_walking_there():
    epoch, sample = sample_at(3, 1_281_167, 10**12 + np.arange(4096))
    assert epoch.min() == 10**12 // 1_281_167
    assert sample.min() >= 0 and sample.max() < 1_281_167
    assert len(np.unique(sample)) == 4096


def test_three_samples_come_in_all_six_orders_equally_often():
    orders = sample_at(0, 3, np.arange(3 * 12_000)).sample.reshape(-1, 3)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000)


@pytest.mark.parametrize("size", [50, 64, 100])
def test_every_sample_comes_at_every_place_equally_often(size):
    epochs = 400
    orders = sample_at(1, size, np.arange(size * epochs)).sample.reshape(epochs, size)
    table = np.stack([np.bincount(column, minlength=size) for column in orders.T])
    expected = epochs / size
    chi_square = ((table - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [10_007, 16_384, 20_000])
def test_order_is_uncorrelated_with_place_and_neighbours(size):
    order, following = epoch_of(0, size, 0), epoch_of(0, size, 1)
    bound = 5 / np.sqrt(size)
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < bound
    assert abs(np.corrcoef(order, following)[0, 1]) < bound
    for lag in (1, 2, 8, 256):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < bound
    # Neighbours of the tar (one folder, one video) are no neighbours of the order.
    assert (np.abs(np.diff(order)) == 1).sum() < 2 + 5 * np.sqrt(2)


@given(
    processes=st.integers(1, 8),
    accumulation=st.integers(1, 4),
    device_batch=st.integers(1, 5),
    restarts=st.lists(st.integers(0, 12), max_size=3),
)
def test_slices_of_all_processes_make_up_the_stream(
    processes, accumulation, device_batch, restarts
):
    batch_size, steps, size = processes * accumulation * device_batch, 12, 37
    stream = []
    for first, last in itertools.pairwise(sorted([0, *restarts, steps])):
        ranks = [
            list(Slices(batch_size, processes, rank, accumulation).micro_batches(first, last))
            for rank in range(processes)
        ]
        assert {len(micro_batches) for micro_batches in ranks} == {(last - first) * accumulation}
        assert {len(m) for micro_batches in ranks for m in micro_batches} <= {device_batch}
        for step in range(last - first):
            own = slice(step * accumulation, (step + 1) * accumulation)
            stream += [position for rank in ranks for micro in rank[own] for position in micro]
    assert stream == list(range(steps * batch_size))
    samples = sample_at(0, size, np.array(stream)).sample
    assert samples.tolist() == sample_at(0, size, np.arange(steps * batch_size)).sample.tolist()
