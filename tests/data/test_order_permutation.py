import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.base.hashing import fold
from mae.data.order import permute

SIZES = [1, 2, 3, 5, 7, 31, 97, 1009, *(2**k + d for k in (2, 4, 10, 11) for d in (-1, 0, 1))]


def permutation(size, key=0):
    return permute(np.arange(size), size, fold(key))


def test_golden_vectors():
    # Written down once: a change makes every run continue with other images.
    assert permutation(10).tolist() == [9, 1, 6, 8, 7, 5, 3, 2, 4, 0]
    far = permute(np.array([0, 1, 2**40 - 1]), 2**40, fold(7))
    assert far.tolist() == [345097489019, 1077299388505, 902506297524]


@pytest.mark.parametrize("size", SIZES)
def test_every_element_once(size):
    assert np.array_equal(np.sort(permutation(size)), np.arange(size))


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63 - 1))
def test_every_element_once_of_any_size_and_key(size, key):
    assert np.array_equal(np.sort(permutation(size, key)), np.arange(size))


@given(size=st.integers(1, 2**62), key=st.integers(0, 2**63 - 1), data=st.data())
def test_an_element_depends_on_nothing_beside_it(size, key, data):
    index = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9))
    together = permute(np.array(index), size, fold(key))
    alone = [permute(np.array([one]), size, fold(key)).item() for one in index]
    assert together.tolist() == alone
    assert together.min() >= 0 and together.max() < size
    assert len(set(alone)) == len(set(index))


def test_each_element_may_have_a_key_of_its_own():
    index, keys = np.arange(100) % 10, fold(0, np.arange(100) // 10)
    mixed = permute(index, 10, keys)
    for number in range(10):
        own = permute(np.arange(10), 10, keys[10 * number : 10 * number + 1])
        assert mixed[10 * number : 10 * number + 10].tolist() == own.tolist()


@given(sizes=st.lists(st.integers(1, 2**62), min_size=1, max_size=9), key=st.integers(0, 2**63 - 1))
def test_each_element_may_have_a_size_of_its_own(sizes, key):
    index = np.array(sizes) // 3
    together = permute(index, np.array(sizes), fold(key))
    alone = [permute(index[n : n + 1], size, fold(key)).item() for n, size in enumerate(sizes)]
    assert together.tolist() == alone


def test_no_elements():
    assert permute(np.arange(0), 5, fold(0)).tolist() == []


def test_keys_differ():
    orders = [permutation(100, key) for key in range(20)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.12  # of 100, 1 agrees on average


def test_the_argument_is_left_alone():
    index = np.arange(50)
    permute(index, 50, fold(0))
    assert index.tolist() == list(range(50))


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_all_permutations_of_a_few_come_equally_often(size):
    keys = 40 * math.factorial(size)
    key = fold(0, np.repeat(np.arange(keys), size))
    found = permute(np.tile(np.arange(size), keys), size, key).reshape(keys, size)
    counts = np.unique(found, axis=0, return_counts=True)[1]
    freedom = math.factorial(size) - 1
    assert len(counts) == freedom + 1
    assert abs(((counts - 40) ** 2 / 40).sum() - freedom) < 5 * np.sqrt(2 * freedom)
