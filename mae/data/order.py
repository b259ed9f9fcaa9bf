"""Order of training as a pure function: position → (view, sample).

It depends on the seed, the sizes of the shards and the settings of `data`, not on the number of
processes, workers or restarts.  Four modes:

`global`: position p is index p mod N of epoch p div N, mapped by a permutation of all N samples
that is keyed by (seed, epoch).  Every batch may read from every shard: for local and shared disks.

`window`: the shards are permuted by a key of (seed, epoch) and taken `window` at a time; samples
are permuted within each window.  For caches and spinning disks.

`lanes`: slot j of a global batch of B belongs to lane j div (B / lanes), and each lane reads its
own share of the permuted shards, window by window.  A process takes whole lanes and so reads only
its share of the shards, yet the global batch is the same for every number of processes.

`sequential`: the samples as they lie in the shards, for evaluation; not for training.

In every mode each lane (all but `lanes` have one) yields each of its samples exactly once
per epoch (`repeats` times in a row), and continues with the next epoch at once: no batch is cut
at the end of an epoch.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.hashing import GAMMA, Stream, Words, fold, mix

BLOCK = 1000
"""number of positions of a lane in which a mixture keeps its weights exactly"""
ROUNDS = 16
"""rounds of the Feistel network"""
LAYOUTS = 4
"""number of epochs whose layout a data set keeps: 16 bytes a shard each"""

Integers = npt.NDArray[np.int64]
Mode = Literal["global", "window", "lanes", "sequential"]


class Place(NamedTuple):
    """View and sample of each position of the order."""

    view: Integers
    """which view of the sample it is, counted from 0 over the run: epoch * repeats + repeat"""
    sample: Integers
    """number in the manifest"""


class Order:
    """Order of a run, as described in the module's docstring.

    `counts` are the samples per shard, one array per data set.  `weights` are the proportions of
    the data sets of a mixture: exact (to 1 / BLOCK) in every BLOCK * repeats positions of a lane;
    each data set has its own order and epochs.  `repeats` consecutive positions are views of one
    sample.
    """

    def __init__(
        self,
        seed: int,
        counts: Sequence[Integers],
        *,
        mode: Mode = "global",
        window: int = 16,
        lanes: int = 1,
        batch_size: int = 1,
        weights: Sequence[float] = (1.0,),
        repeats: int = 1,
    ) -> None:
        self.seed, self.repeats, self.batch_size = seed, repeats, batch_size
        self.lanes = lanes if mode == "lanes" else 1
        self.sizes = [int(shards.sum()) for shards in counts]
        self.first = np.cumsum([0, *self.sizes])
        self.quotas = np.cumsum([0, *quotas(weights)])
        # A single data set uses the seed of the run.
        seeds = [seed] if len(counts) == 1 else fold(seed, Stream.MIXTURE, np.arange(len(counts)))
        self.streams = [
            _SequentialOrder(size)
            if mode == "sequential"
            else _GlobalOrder(int(own), size)
            if mode == "global"
            else _WindowOrder(int(own), shards, window, self.lanes)
            for own, size, shards in zip(seeds, self.sizes, counts, strict=True)
        ]

    def __len__(self) -> int:
        """Number of samples in all data sets."""
        return int(self.first[-1])

    def __call__(self, positions: Integers) -> Place:
        """View and sample of each position."""
        lane, index = self._lane(positions.astype(np.int64))
        index, repeat = np.divmod(index, self.repeats)
        if len(self.streams) == 1:
            epoch, sample = self.streams[0](lane, index)
            return Place(epoch * self.repeats + repeat, sample)
        source, index = self._source(lane, index)
        epoch, sample = np.empty_like(index), np.empty_like(index)
        for number in np.unique(source):
            own = source == number
            epoch[own], sample[own] = self.streams[number](lane[own], index[own])
        return Place(epoch * self.repeats + repeat, sample + self.first[source])

    def _lane(self, positions: Integers) -> tuple[Integers, Integers]:
        """The lane of each position, and the position within it."""
        if self.lanes == 1:
            return np.zeros_like(positions), positions
        step, slot = np.divmod(positions, self.batch_size)
        share = self.batch_size // self.lanes
        lane, within = np.divmod(slot, share)
        return lane, step * share + within

    def _source(self, lane: Integers, index: Integers) -> tuple[Integers, Integers]:
        """The data set of each position of a lane, and the position within that."""
        block, slot = np.divmod(index, BLOCK)
        slot = permute(slot, BLOCK, fold(self.seed, Stream.MIXTURE, lane, block))
        source = np.searchsorted(self.quotas, slot, side="right") - 1
        quota = np.diff(self.quotas)[source]
        return source, block * quota + slot - self.quotas[source]


def sample_at(seed: int, num_samples: int, positions: Integers) -> Place:
    """The `global` order of one data set: every sample exactly once per epoch."""
    epoch, index = np.divmod(positions.astype(np.int64), num_samples)
    # Mostly a single epoch, which needs a single key.
    epochs = np.unique(epoch)
    key = fold(seed, Stream.ORDER, epochs if len(epochs) == 1 else epoch)
    return Place(epoch, permute(index, num_samples, key))


def permute(index: Integers, size: int | Integers, key: Words) -> Integers:
    """A keyed permutation of range(size), elementwise and without a table.

    `size` is one number and `key` one word, or one per element.  A Feistel network (Luby and
    Rackoff 1988) on pairs (left, right) of numbers below a and b, where a * b is slightly more than
    `size` ("generalised Feistel cipher", Black and Rogaway 2002); the few results outside the range
    are permuted again until they fall inside ("cycle walking", ibid.).
    """
    parameters = [*_sides(np.atleast_1d(size)), key]
    words = index.astype(np.uint64)
    outside = np.arange(len(words))
    while len(outside):
        sizes, *own = (one if len(one) == 1 else one[outside] for one in parameters)
        words[outside] = _feistel(words[outside], *own)
        outside = outside[words[outside] >= sizes]
    return words.astype(np.int64)


def _sides(sizes: Integers) -> list[Words]:
    """`sizes` [n], and for each an even number of rows and a number of columns that hold it."""
    different, place = np.unique(sizes, return_inverse=True)
    rows = np.array([math.isqrt(max(0, size - 1)) + 1 for size in different.tolist()])
    rows += rows % 2  # with both odd, only even permutations would occur
    columns = -(-different // rows)
    return [of_each[place].astype(np.uint64) for of_each in (different, rows, columns)]


def quotas(weights: Sequence[float]) -> list[int]:
    """`weights` as whole numbers that sum to BLOCK (method of largest remainders)."""
    shares = np.asarray(weights, np.float64) / sum(weights) * BLOCK
    whole = np.floor(shares).astype(int)
    largest = np.argsort(whole - shares, kind="stable")[: BLOCK - whole.sum()]
    whole[largest] += 1
    return whole.tolist()


class _SequentialOrder:
    """The `sequential` order of one data set."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, lane: Integers, index: Integers) -> tuple[Integers, Integers]:
        epoch, sample = np.divmod(index, self.size)
        return epoch, sample


class _GlobalOrder:
    """The `global` order of one data set."""

    def __init__(self, seed: int, size: int) -> None:
        self.seed, self.size = seed, size

    def __call__(self, lane: Integers, index: Integers) -> tuple[Integers, Integers]:
        return sample_at(self.seed, self.size, index)


class _EpochLayout(NamedTuple):
    """Permuted shards of an epoch and the windows over them."""

    shards: Integers
    """shard numbers in the order of the epoch"""
    starts: Integers
    """index of each shard's first sample in the epoch, and the number of samples"""
    bounds: Integers
    """first index of each window, and the end; windows do not extend over the end of a lane"""


class _WindowOrder:
    """The `window` and `lanes` orders of one data set."""

    def __init__(self, seed: int, counts: Integers, window: int, lanes: int) -> None:
        self.seed, self.counts, self.window = seed, counts, window
        self.first = np.cumsum(counts) - counts
        self.lane_starts = np.arange(lanes + 1) * int(counts.sum()) // lanes
        self.layouts: dict[int, _EpochLayout] = {}

    def __call__(self, lane: Integers, index: Integers) -> tuple[Integers, Integers]:
        lengths = np.diff(self.lane_starts)
        epoch, within = np.divmod(index, lengths[lane])
        place = self.lane_starts[lane] + within
        sample = np.empty_like(place)
        for number in np.unique(epoch):
            own = epoch == number
            sample[own] = self._in_epoch(int(number), place[own])
        return epoch, sample

    def _in_epoch(self, number: int, place: Integers) -> Integers:
        layout = self._layout(number)
        window = np.searchsorted(layout.bounds, place, side="right") - 1
        different, number_of = np.unique(window, return_inverse=True)
        starts = layout.bounds[different]
        sizes = layout.bounds[different + 1] - starts
        keys = fold(self.seed, Stream.ORDER, number, different)
        start = starts[number_of]
        shuffled = start + permute(place - start, sizes[number_of], keys[number_of])
        slot = np.searchsorted(layout.starts, shuffled, side="right") - 1
        return self.first[layout.shards[slot]] + shuffled - layout.starts[slot]

    def __getstate__(self) -> dict[str, Any]:
        """Without layouts, which a data worker makes for itself."""
        return self.__dict__ | {"layouts": {}}

    def _layout(self, number: int) -> _EpochLayout:
        layout = self.layouts.get(number)
        if layout is None:
            layout = self._made_layout(number)
            newest = list(self.layouts.items())[1 - LAYOUTS :]
            self.layouts = dict([*newest, (number, layout)])
        return layout

    def _made_layout(self, number: int) -> _EpochLayout:
        count = len(self.counts)
        key = fold(self.seed, Stream.ORDER, number)
        shards = permute(np.arange(count), count, key)
        starts = np.cumsum([0, *self.counts[shards]])
        bounds = [self.lane_starts]
        for low, high in zip(self.lane_starts[:-1], self.lane_starts[1:], strict=True):
            inside = starts[np.searchsorted(starts, low, "right") : np.searchsorted(starts, high)]
            # Windows of equal length: a short last one would hardly be shuffled.
            parts = len(inside) + 1
            windows = -(-parts // self.window)
            bounds.append(inside[parts * np.arange(1, windows) // windows - 1])
        return _EpochLayout(shards, starts, np.unique(np.concatenate(bounds)))


def _feistel(words: Words, rows: Words, columns: Words, key: Words) -> Words:
    left, right = np.divmod(words, columns)
    for turn in range(0, ROUNDS, 2):
        even, odd = (mix(key + np.uint64((turn + i) * GAMMA % 2**64)) for i in (1, 2))
        left = (left + mix(right ^ even) % rows) % rows
        right = (right + mix(left ^ odd) % columns) % columns
    return left * columns + right
