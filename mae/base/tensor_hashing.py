"""Tensor form of `mae.base.hashing`, for any device: int64 tensors that hold the same 64 bits."""

import numpy as np
import torch
from torch import Tensor

from mae.base.hashing import GAMMA, MULTIPLIER_1, MULTIPLIER_2, Words


def as_tensor(words: Words) -> Tensor:
    """View uint64 words as an int64 CPU tensor with the same bits."""
    return torch.from_numpy(words.view(np.int64))


def mix_tensor(words: Tensor) -> Tensor:
    """Scramble int64 words as `mae.base.hashing.mix` does uint64 words."""
    words = (words ^ _shift_right(words, 30)) * _signed(MULTIPLIER_1)
    words = (words ^ _shift_right(words, 27)) * _signed(MULTIPLIER_2)
    return words ^ _shift_right(words, 31)


def counters(keys: Tensor, count: int) -> Tensor:
    """Random int64 words [b count] from int64 keys [b]: `mix(key + i * GAMMA)`, i = 1 … count.

    `mae.base.hashing.uniforms` makes its numbers from the same words.
    """
    steps = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64) * _signed(GAMMA)
    return mix_tensor(keys[:, None] + steps)


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1), float32 [b count], from int64 keys [b]: 23 bits each.

    With 24 bits the largest would round to 1.  They differ from those of
    `mae.base.hashing.uniforms`, which have 53 bits.
    """
    return centred(_shift_right(counters(keys, count), 41))


def centred(numbers: Tensor) -> Tensor:
    """Integers from 0 to 2^23 - 1 → (number + 0.5) / 2^23 in float32, exactly."""
    return (numbers.float() + 0.5) / (1 << 23)


def normals(keys: Tensor, count: int) -> Tensor:
    """Standard normal numbers, float32 [b count], from int64 keys [b]; at most 5.3 in size.

    By the inverse of the distribution function; devices may differ in the last bits.
    """
    return torch.erfinv(2 * uniforms(keys, count) - 1) * 2**0.5


def _signed(word: int) -> int:
    return word - (1 << 64)  # every constant here has its top bit set


def _shift_right(words: Tensor, bits: int) -> Tensor:
    # int64 shifts copy the sign bit in; a logical shift must not.
    return (words >> bits) & ((1 << (64 - bits)) - 1)
