"""Keyed permutations of range(n), stateless: any element can be computed at once."""

import math

import numpy as np
import numpy.typing as npt

from mae.base.hashing import GAMMA, Words, mix

ROUNDS = 16

Integers = npt.NDArray[np.int64]


def permute(index: Integers, size: int, key: Words) -> Integers:
    """A keyed permutation of range(size), elementwise and without a table.

    `key` is one word, or one for each element.  A Feistel network (Luby and Rackoff 1988) on pairs
    (left, right) of numbers below a and b, where a * b is hardly more than `size` ("generalised
    Feistel cipher", Black and Rogaway 2002); the few results outside the range are sent through
    again until they fall inside ("cycle walking", same).
    """
    rows = math.isqrt(size - 1) + 1
    rows += rows % 2  # odd numbers of both would give even permutations only
    columns = -(-size // rows)
    words = index.astype(np.uint64)
    outside = np.arange(len(words))
    while len(outside):
        own = key if len(key) == 1 else key[outside]
        words[outside] = _feistel(words[outside], np.uint64(rows), np.uint64(columns), own)
        outside = outside[words[outside] >= np.uint64(size)]
    return words.astype(np.int64)


def _feistel(words: Words, rows: np.uint64, columns: np.uint64, key: Words) -> Words:
    left, right = np.divmod(words, columns)
    for turn in range(0, ROUNDS, 2):
        even, odd = (mix(key + np.uint64((turn + i) * GAMMA % 2**64)) for i in (1, 2))
        left = (left + mix(right ^ even) % rows) % rows
        right = (right + mix(left ^ odd) % columns) % columns
    return left * columns + right
