"""The libraries' generators: set before every step, so no checkpoint has to hold them."""

import random

import numpy as np
import torch

from mae.base.hashing import Words


def seed_libraries(words: Words) -> None:
    """Python's, NumPy's and torch's default generators, from the first of `words`."""
    word = int(words[0])
    random.seed(word)
    np.random.seed(word % 2**32)
    torch.manual_seed(word >> 1)
