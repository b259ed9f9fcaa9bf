"""The order of training as a pure function: position → (epoch, sample).

Position p of the endless stream is index p mod N of epoch p div N, sent through a permutation of
the N samples that is keyed by (seed, epoch).  Any position can be computed at once and nothing
but (seed, N) enters: not the number of processes, workers or restarts.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.hashing import GAMMA, Stream, Words, fold, mix

ROUNDS = 8

Integers = npt.NDArray[np.int64]


class Place(NamedTuple):
    """Where a position of the stream falls."""

    epoch: Integers
    sample: Integers


def sample_at(seed: int, num_samples: int, positions: Integers) -> Place:
    """Epoch and sample of each position; every sample is seen exactly once per epoch."""
    epoch, index = np.divmod(positions.astype(np.int64), num_samples)
    key = fold(seed, Stream.ORDER, epoch)
    return Place(epoch, permute(index, num_samples, key))


def permute(index: Integers, size: int, key: Words) -> Integers:
    """A keyed permutation of range(size), elementwise and without a table.

    A balanced Feistel network (Luby and Rackoff 1988) on the next even number of bits; results
    outside the range are sent through again until they fall inside ("cycle walking", Black and
    Rogaway 2002), on average less than three more times.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    words = index.astype(np.uint64)
    key = np.broadcast_to(key, words.shape)
    outside = np.arange(len(words))
    while len(outside):
        words[outside] = _feistel(words[outside], half_bits, key[outside])
        outside = outside[words[outside] >= np.uint64(size)]
    return words.astype(np.int64)


def _feistel(words: Words, half_bits: int, key: Words) -> Words:
    bits, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = words >> bits, words & low
    for turn in range(ROUNDS):
        round_key = mix(key + np.uint64((turn + 1) * GAMMA % 2**64))
        left, right = right, left ^ (mix(right ^ round_key) & low)
    return (left << bits) | right
