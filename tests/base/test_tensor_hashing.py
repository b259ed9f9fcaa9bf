import numpy as np
import pytest
import torch

from mae.base.hashing import mix
from mae.base.tensor_hashing import as_tensor, counters, mix_tensor
from tests.base.test_hashing import WORDS, splitmix64


@pytest.mark.parametrize("seed", WORDS)
def test_counters_equal_splitmix64(seed):
    keys = as_tensor(np.array([seed], np.uint64))
    assert counters(keys, 5).numpy().view(np.uint64).tolist() == [splitmix64(seed, 5)]


def test_numpy_and_tensor_forms_agree_bit_for_bit():
    words = np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64)
    words[: len(WORDS)] = WORDS
    tensor = mix_tensor(as_tensor(words))
    assert tensor.dtype == torch.int64
    assert np.array_equal(tensor.numpy().view(np.uint64), mix(words))
