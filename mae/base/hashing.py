"""Counter-based random numbers: pure functions of integers, the same bits on every machine.

All randomness of a run is `fold(seed, stream, ...)`, so nothing depends on the number of
processes or workers, on restarts, or on a library's generator.  The mixer is the finaliser of
SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""64-bit hashes, any shape"""

# SplitMix64's increment and the multipliers of its finaliser.
GAMMA = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB
WORD = 2**64 - 1


class Stream(IntEnum):
    """Purpose of a random number; the streams of one seed are independent."""

    ORDER = 1
    VIEW = 2
    OBJECTIVE = 3
    PANEL = 4
    STEP = 5
    MIXTURE = 6
    REPLACEMENT = 7
    STATISTICS = 8
    AUGMENT = 9
    AFTER_STEP = 10


def mix(words: Words) -> Words:
    """Scramble 64-bit words by the SplitMix64 finaliser, a bijection."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(MULTIPLIER_1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(MULTIPLIER_2)
    return words ^ (words >> np.uint64(31))


def fold(seed: int, *values: int | npt.NDArray) -> Words:
    """Hash `seed` with `values` (non-negative integers, broadcast) to words of shape [n]."""
    integers = [value for value in values if isinstance(value, int)]
    if len(integers) == len(values) and 0 <= seed <= WORD:
        return np.array([_fold_integers(seed, integers)], dtype=np.uint64)
    # One-element arrays, not scalars: NumPy warns when scalars overflow, but not for arrays.
    key = mix(np.atleast_1d(np.asarray(seed, dtype=np.uint64)) + np.uint64(GAMMA))
    for value in values:
        value = np.atleast_1d(np.asarray(value)).astype(np.uint64)
        # GAMMA breaks the symmetry: without it fold(a, b) = fold(b, a), and fold(a, a) = 0.
        key = mix((key + np.uint64(GAMMA)) ^ mix(value + np.uint64(GAMMA)))
    return key


def _fold_integers(seed: int, values: list[int]) -> int:
    """`fold` of Python's integers, five times as fast as by arrays of one element."""
    key = _mix_integer((seed & WORD) + GAMMA & WORD)
    for value in values:
        key = _mix_integer((key + GAMMA & WORD) ^ _mix_integer((value & WORD) + GAMMA & WORD))
    return key


def _mix_integer(word: int) -> int:
    """`mix` of an integer below 2^64."""
    word = (word ^ word >> 30) * MULTIPLIER_1 & WORD
    word = (word ^ word >> 27) * MULTIPLIER_2 & WORD
    return word ^ word >> 31


def uniforms(keys: Words, count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) of shape [b count] from keys [b].

    Number i of a key is the top 53 bits of `mix(key + i * GAMMA)`, i = 1 … count.
    """
    counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
    words = mix(keys[:, None] + counters)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
