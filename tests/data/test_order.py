import itertools
import random
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from mae.data import order as order_module
from mae.data.batch import BatchSharding
from mae.data.order import BLOCK, Order, quotas, sample_at

SIZES = [1, 2, 3, 5, 7, 31, 97, 1009, *(2**k + d for k in (2, 4, 10, 11) for d in (-1, 0, 1))]


def epoch_of(seed, size, epoch):
    """The samples of one epoch, in order."""
    place = sample_at(seed, size, np.arange(epoch * size, (epoch + 1) * size))
    assert (place.view == epoch).all()
    return place.sample


def test_golden_vectors():
    # Written down once: a change makes every run continue with other images.
    epochs, samples = sample_at(0, 10, np.arange(20))
    assert epochs.tolist() == [0] * 10 + [1] * 10
    assert samples.tolist() == [9, 8, 7, 6, 0, 1, 2, 5, 3, 4, 2, 5, 4, 6, 3, 9, 1, 0, 7, 8]
    epochs, samples = sample_at(7, 1000, np.array([0, 1, 999, 1000, 10**12]))
    assert epochs.tolist() == [0, 0, 0, 1, 10**9]
    assert samples.tolist() == [723, 915, 322, 627, 30]


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
    assert together.view.tolist() == [place.view.item() for place in alone]
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


# Windows, lanes, mixtures, repeats

SHARDS = np.array([5, 0, 3, 1, 4, 7, 2, 6])
TWO = [np.array([5, 3]), np.array([4])]
FAR = 10**12
# Written down once, as above: views and samples of positions 0 to 19 and FAR.
GOLDEN: dict[str, tuple[dict[str, Any], list[int], list[int]]] = {
    "window": (
        {"counts": [SHARDS], "mode": "window", "window": 2},
        [*[0] * 20, 35714285714],
        [12, 9, 4, 1, 10, 3, 0, 11, 2, 21, 20, 16, 17, 13, 8, 19, 14, 18, 15, 5, 7],
    ),
    "lanes": (
        {"counts": [SHARDS], "mode": "lanes", "window": 1, "lanes": 2, "batch_size": 4},
        [*[0] * 20, 35714285714],
        [12, 11, 18, 17, 9, 10, 19, 16, 2, 1, 8, 26, 0, 4, 25, 27, 3, 20, 24, 23, 1],
    ),
    "repeats": (
        {"counts": [SHARDS], "repeats": 3},
        [*[0, 1, 2] * 6, 0, 1, 35714285713],
        [*np.repeat([17, 25, 3, 13, 24, 8, 27], 3)[:20].tolist(), 16],
    ),
    "mixture": (
        {"counts": TWO, "weights": [3, 1]},
        [
            51,
            41,
            21,
            68,
            0,
            54,
            11,
            27,
            58,
            60,
            25,
            40,
            59,
            70,
            12,
            60,
            56,
            67,
            60,
            31,
            93750000033,
        ],
        [8, 1, 7, 6, 4, 6, 9, 1, 9, 11, 3, 11, 2, 3, 4, 10, 5, 3, 2, 9, 2],
    ),
    "mixture, lanes and repeats": (
        {
            "counts": TWO,
            "mode": "lanes",
            "window": 1,
            "lanes": 2,
            "batch_size": 8,
            "weights": [3, 1],
            "repeats": 2,
        },
        [
            *[206, 207, 164, 165, 82, 83, 270, 271, 86, 87],
            *[272, 273, 346, 347, 220, 221, 2, 3, 216, 217, 93750000032],
        ],
        [*np.repeat([8, 1, 5, 5, 3, 1, 7, 5, 0, 2], 2).tolist(), 1],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors_of_the_modes(name):
    settings, views, samples = GOLDEN[name]
    place = Order(3, **settings)(np.array([*range(20), FAR]))
    assert place.view.tolist() == views
    assert place.sample.tolist() == samples


def test_global_is_the_order_of_all_samples_whatever_the_shards():
    places = [Order(3, counts)(np.arange(90)) for counts in ([SHARDS], [np.array([28])])]
    for place in places:
        assert place.sample.tolist() == sample_at(3, 28, np.arange(90)).sample.tolist()


counts_of_shards = st.lists(st.integers(0, 12), min_size=1, max_size=12).map(np.array)


@st.composite
def orders(draw, mixtures=True):
    """An order of any settings, and these."""
    sets = draw(st.lists(counts_of_shards, min_size=1, max_size=3 if mixtures else 1))
    settings = {
        "mode": draw(st.sampled_from(["global", "window", "lanes"])),
        "window": draw(st.integers(1, 5)),
        "lanes": draw(st.sampled_from([1, 2, 3, 4, 6])),
        "repeats": draw(st.integers(1, 3)),
        "weights": [draw(st.floats(0.01, 100)) for _ in sets],
    }
    settings["batch_size"] = settings["lanes"] * draw(st.integers(1, 3))
    for counts in sets:
        counts[0] += max(0, settings["lanes"] - counts.sum())  # a sample for each lane at least
    return Order(draw(st.integers(0, 2**63 - 1)), sets, **settings), settings | {"counts": sets}


def lane_positions(settings, lane, count):
    """The first `count` positions of a lane (of the only one, where there are no lanes)."""
    if settings["mode"] != "lanes":
        return np.arange(count)
    share = settings["batch_size"] // settings["lanes"]
    step, within = np.divmod(np.arange(count), share)
    return step * settings["batch_size"] + lane * share + within


def lane_lengths(settings):
    """Samples of each lane in an epoch: lanes differ by one at most."""
    lanes = settings["lanes"] if settings["mode"] == "lanes" else 1
    total = sum(int(counts.sum()) for counts in settings["counts"])
    return np.diff(np.arange(lanes + 1) * total // lanes).tolist()


@given(drawn=orders(mixtures=False), epochs=st.integers(1, 3))
def test_whole_epochs_of_each_lane_hold_every_view_of_every_sample_once(drawn, epochs):
    order, settings = drawn
    repeats = settings["repeats"]
    seen = []
    for lane, length in enumerate(lane_lengths(settings)):
        place = order(lane_positions(settings, lane, length * epochs * repeats))
        seen += zip(place.view.tolist(), place.sample.tolist(), strict=True)
    assert sorted(seen) == list(itertools.product(range(epochs * repeats), range(len(order))))


@given(drawn=orders(), positions=st.lists(st.integers(0, FAR), min_size=1, max_size=20))
def test_a_position_depends_on_nothing_beside_it_in_any_mode(drawn, positions):
    order, _ = drawn
    together = order(np.array(positions))
    alone = [order(np.array([position])) for position in positions]
    assert together.view.tolist() == [place.view.item() for place in alone]
    assert together.sample.tolist() == [place.sample.item() for place in alone]
    assert together.sample.min() >= 0 and together.sample.max() < len(order)


@given(drawn=orders(), group=st.integers(0, FAR))
def test_repeats_show_one_sample_in_a_row_with_views_of_their_own(drawn, group):
    order, settings = drawn
    repeats = settings["repeats"]
    positions = lane_positions(settings, 0, 3 * repeats)[2 * repeats :]
    if settings["mode"] != "lanes":
        positions = positions + group * repeats
    place = order(positions)
    assert len(set(place.sample.tolist())) == 1
    first = int(place.view[0])
    assert place.view.tolist() == list(range(first, first + repeats)) and first % repeats == 0


@pytest.mark.parametrize("mode", ["global", "window", "lanes"])
def test_any_mode_starts_anywhere_without_walking_there(mode):
    counts = np.full(1000, 1281)
    order = Order(3, [counts], mode=mode, lanes=64, batch_size=4096)
    place = order(FAR + np.arange(8192))
    # Lanes that are one sample longer than others fall behind: in so many epochs by some epochs.
    assert np.abs(place.view - FAR // 1_281_000).max() < 100
    pairs = set(zip(place.view.tolist(), place.sample.tolist(), strict=True))
    assert len(pairs) == 8192


@effort(max_examples=30)
@given(drawn=orders(), restarts=st.lists(st.integers(0, 6), max_size=3), data=st.data())
def test_ranks_restarts_and_accumulation_never_change_what_is_seen(drawn, restarts, data):
    """Samples of all ranks, put at their positions, are the order's own sequence."""
    order, settings = drawn
    batch_size, steps = settings["batch_size"], 6
    seen = np.full((2, steps * batch_size), -1)
    for first, last in itertools.pairwise(sorted([0, *restarts, steps])):
        divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
        ranks = data.draw(st.sampled_from(divisors))
        accumulation = data.draw(
            st.sampled_from([n for n in divisors if batch_size // ranks % n == 0])
        )
        for rank in range(ranks):
            sharding = BatchSharding(batch_size, ranks, rank, accumulation)
            for positions in sharding.micro_batches(first, last):
                at = np.arange(positions.start, positions.stop)
                assert (seen[:, at] == -1).all()
                seen[:, at] = order(at)
    expected = order(np.arange(steps * batch_size))
    assert np.array_equal(seen, np.stack(expected))


def shards_of(samples, counts):
    return np.searchsorted(np.cumsum(counts), samples, side="right")


@given(drawn=orders(mixtures=False), epoch=st.integers(0, 3))
def test_no_more_than_a_window_of_shards_is_open(drawn, epoch):
    """Within an epoch of a lane: opened at their first sample, closed at their last."""
    order, settings = drawn
    if settings["mode"] == "global":
        return
    repeats = settings["repeats"]
    for lane, length in enumerate(lane_lengths(settings)):
        first = epoch * length * repeats
        positions = lane_positions(settings, lane, first + length * repeats)[first:]
        shards = shards_of(order(positions).sample, settings["counts"][0])
        at = np.arange(len(shards))
        spans = [at[shards == shard][[0, -1]] for shard in np.unique(shards)]
        is_open = sum((start <= at) & (at <= end) for start, end in spans)
        assert np.max(is_open) <= settings["window"]


@given(drawn=orders(mixtures=False), epoch=st.integers(0, 3))
def test_lanes_share_the_shards_of_an_epoch(drawn, epoch):
    """A boundary between two ranks splits one shard at most."""
    order, settings = drawn
    if settings["mode"] != "lanes":
        return
    counts, lanes, repeats = settings["counts"][0], settings["lanes"], settings["repeats"]
    touched = []
    for lane, length in enumerate(lane_lengths(settings)):
        first = epoch * length * repeats
        positions = lane_positions(settings, lane, first + length * repeats)[first:]
        touched.append(set(shards_of(order(positions).sample, counts).tolist()))
    for ranks in range(1, lanes + 1):
        if lanes % ranks:
            continue
        own = lanes // ranks
        parts = [set.union(*touched[rank * own : (rank + 1) * own]) for rank in range(ranks)]
        assert sum(map(len, parts)) <= np.count_nonzero(counts) + ranks - 1


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_rank_of_lanes_touches_its_share_of_the_shards(ranks):
    """Equal shards: S / W and one at each end; in a short while two windows of each lane."""
    number, each, window, lanes, batch_size = 160, 50, 4, 8, 64
    order = Order(
        1, [np.full(number, each)], mode="lanes", window=window, lanes=lanes, batch_size=batch_size
    )
    steps = number * each // batch_size
    for rank in range(ranks):
        sharding = BatchSharding(batch_size, ranks, rank, 1)
        positions = np.array([list(m) for m in sharding.micro_batches(0, steps)])
        shards = order(positions.ravel()).sample // each
        assert number / ranks - 1 <= len(np.unique(shards)) <= number / ranks + 2
        # In every stretch that is no longer than a window.
        of_lane = batch_size // lanes
        stretch = ((window - 1) * each + 1) // of_lane
        for first in range(0, steps - stretch, 7):
            rows = order(positions[first : first + stretch].ravel()).sample // each
            assert len(np.unique(rows)) <= 2 * window * lanes / ranks


def test_many_lanes_are_permuted_together(monkeypatch):
    """A batch of 1,024 lanes takes as many calls as one of a single lane."""
    calls = []
    feistel = order_module._feistel
    monkeypatch.setattr(
        order_module, "_feistel", lambda *own: calls.append(len(own[0])) or feistel(*own)
    )
    order = Order(0, [np.full(4096, 9)], mode="lanes", window=2, lanes=1024, batch_size=2048)
    place = order(np.arange(2048))
    assert len(np.unique(place.sample)) == 2048 and len(calls) < 20


def test_epochs_take_the_shards_in_another_order():
    order = Order(0, [np.full(64, 4)], mode="window", window=1)
    shards = order(np.arange(3 * 256)).sample.reshape(3, 64, 4) // 4
    assert (shards == shards[..., :1]).all()  # one after the other
    first, second, third = shards[..., 0]
    assert (first == second).sum() < 8 and (second == third).sum() < 8
    samples = order(np.arange(3 * 256)).sample.reshape(3, 256)
    within = [
        [np.argsort(samples[e, samples[e] // 4 == s]).tolist() for s in range(64)] for e in (0, 1)
    ]
    assert sum(a == b for a, b in zip(*within, strict=True)) < 16  # of 64, 64 / 4! on average


def test_a_window_of_all_shards_shuffles_all_samples():
    counts = np.full(20, 500)
    order = Order(0, [counts], mode="window", window=20)(np.arange(10_000)).sample
    bound = 5 / np.sqrt(10_000)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < bound
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < bound


# Mixtures


@effort(max_examples=25)
@given(drawn=orders(), block=st.integers(0, 10**6))
def test_a_mixture_keeps_its_weights_in_every_block_of_a_lane(drawn, block):
    order, settings = drawn
    if len(settings["counts"]) == 1 or (settings["mode"] == "lanes" and block > 5):
        return
    length = BLOCK * settings["repeats"]
    positions = lane_positions(settings, 0, length * (block + 1) if block <= 5 else length)
    positions = positions[-length:] + (0 if block <= 5 else block * length)
    sizes = [int(counts.sum()) for counts in settings["counts"]]
    sources = shards_of(order(positions).sample, sizes)
    expected = [quota * settings["repeats"] for quota in quotas(settings["weights"])]
    assert np.bincount(sources, minlength=len(sizes)).tolist() == expected


@pytest.mark.parametrize("mode", ["global", "window"])
def test_each_data_set_of_a_mixture_has_epochs_of_its_own(mode):
    """After whole blocks: all whole epochs complete, the last one begun, nothing twice."""
    sets = [np.array([700, 0, 550]), np.array([90, 91]), np.array([1])]
    order = Order(5, sets, mode=mode, window=2, weights=[5, 3, 0.1])
    place = order(np.arange(7 * BLOCK))
    first = 0
    for size, quota in zip([1250, 181, 1], quotas([5, 3, 0.1]), strict=True):
        own = (first <= place.sample) & (place.sample < first + size)
        pairs = set(zip(place.view[own].tolist(), place.sample[own].tolist(), strict=True))
        assert len(pairs) == own.sum() == 7 * quota
        whole, rest = divmod(7 * quota, size)
        views = np.bincount(place.view[own], minlength=whole + 1)
        assert views.tolist() == [*[size] * whole, rest][: len(views)]
        first += size


def test_data_sets_of_equal_shape_are_shuffled_differently():
    order = Order(0, [np.array([100])] * 2, weights=[1, 1])
    samples = order(np.arange(200_000)).sample
    one, two = samples[samples < 100], samples[samples >= 100] - 100
    assert (one[:50_000] == two[:50_000]).mean() < 0.02  # 0.01 on average


def test_a_data_set_alone_goes_by_the_seed_of_the_run_whatever_its_weight():
    assert Order(3, [SHARDS], weights=[7])(np.arange(99)).sample.tolist() == (
        Order(3, [SHARDS])(np.arange(99)).sample.tolist()
    )


@given(weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_quotas_add_up_and_are_within_one_of_the_weights(weights):
    found = quotas(weights)
    assert sum(found) == BLOCK
    exact = np.array(weights) / sum(weights) * BLOCK
    assert np.abs(found - exact).max() < 1


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1], [1000]),
        ([1, 1], [500, 500]),
        ([1, 1, 1], [334, 333, 333]),
        ([999, 1], [999, 1]),
        ([1e12, 1e-12], [1000, 0]),
        ([1] * 1000, [1] * 1000),
    ],
)
def test_quotas(weights, expected):
    assert quotas(weights) == expected


def test_a_quota_of_nothing_is_never_drawn():
    order = Order(0, TWO, weights=[1e12, 1e-12])
    assert order(np.arange(3 * BLOCK)).sample.max() < 8


# How well it shuffles: different shards in a batch

BATCH = 256


def shards_in_batches(shards):
    whole = len(shards) // BATCH * BATCH
    return [len(np.unique(batch)) for batch in np.array(shards)[:whole].reshape(-1, BATCH)]


def shards_in_our_batches(number, each, **settings):
    order = Order(0, [np.full(number, each)], batch_size=BATCH, **settings)
    return shards_in_batches(order(np.arange(number * each)).sample // each)


@pytest.mark.filterwarnings("ignore")  # webdataset leaves files open
def test_batches_hold_more_shards_than_those_of_a_shuffle_buffer(tmp_path, make_tar):
    """Against webdataset's buffer of 1000 samples over 40 shuffled shards, labels = shards."""
    number, each = 40, 100
    for shard in range(number):
        members = [(f"{one:03d}.cls", str(shard).encode()) for one in range(each)]
        make_tar(tmp_path / f"{shard:03d}.tar", members)
    urls = f"{tmp_path}/{{000..{number - 1:03d}}}.tar"
    samples: Any = webdataset.WebDataset(urls, shardshuffle=number, seed=0).shuffle(1000)
    buffered = shards_in_batches([int(sample["cls"]) for sample in samples])

    everything = shards_in_our_batches(number, each)
    windows = shards_in_our_batches(number, each, mode="window", window=16)
    lanes = shards_in_our_batches(number, each, mode="lanes", window=4, lanes=8)
    by_chance = number * (1 - (1 - BATCH / (number * each)) ** each)  # 39.9
    assert np.mean(everything) > by_chance - 0.5
    assert np.mean(windows) > 12 and np.mean(lanes) > 15  # windows are of equal size
    # A buffer begins nearly empty: its first batches are of few shards.
    assert np.mean(buffered[:2]) < np.mean(windows[:2]) < np.mean(lanes[:2])
    assert np.mean(windows) < np.mean(lanes) < np.mean(everything)


def test_a_window_of_shards_beats_a_buffer_smaller_than_a_shard_or_two():
    number, each = 100, 1000
    shards = np.random.default_rng(0).permutation(number).repeat(each)
    buffered = shards_in_batches(list(webdataset.shuffle(1000, rng=random.Random(0))(iter(shards))))
    windows = shards_in_our_batches(number, each, mode="window", window=16)
    lanes = shards_in_our_batches(number, each, mode="lanes", window=4, lanes=8)
    assert np.mean(buffered) < np.mean(windows) / 2
    assert np.mean(windows) < np.mean(lanes) < np.mean(shards_in_our_batches(number, each))


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
            list(
                BatchSharding(batch_size, processes, rank, accumulation).micro_batches(first, last)
            )
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
