import numpy as np
import pytest
import torch

from mae.base.hashing import mix
from mae.base.tensor_hashing import as_tensor, centred, counters, mix_tensor, normals
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


def test_uniform_numbers_never_reach_zero_or_one():
    ends = centred(torch.tensor([0, 1, 2**23 - 2, 2**23 - 1]))
    assert ends.tolist() == [2**-24, 3 * 2**-24, 1 - 3 * 2**-24, 1 - 2**-24]
    assert torch.erfinv(2 * ends - 1).isfinite().all()


def test_normal_numbers_are_standard():
    numbers = normals(torch.arange(100), 20_000)
    assert numbers.isfinite().all() and numbers.abs().max() < 5.3
    assert abs(numbers.mean()) < 3e-3 and abs(numbers.std() - 1) < 3e-3
    assert abs((numbers**4).mean() - 3) < 0.05
    assert torch.equal(numbers[7:8], normals(torch.tensor([7]), 20_000))
