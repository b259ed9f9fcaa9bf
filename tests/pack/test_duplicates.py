import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.pack import duplicates
from mae.pack.duplicates import content_digest, exact_duplicates, near_duplicates


def words(values):
    return np.array(values, np.uint64)


def digests(contents):
    data = b"".join(content_digest(content) for content in contents)
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


def groups(contents):
    return [group.tolist() for group in exact_duplicates(digests(contents))]


def test_exact_duplicates_are_grouped_in_order():
    assert groups([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]


@pytest.mark.parametrize("contents", [[], [b"a"], [b"a", b"b"]])
def test_no_exact_duplicates(contents):
    assert groups(contents) == []


@given(st.lists(st.sampled_from([b"", b"1", b"2", b"3"])))
def test_exact_duplicates_equal_a_brute_force_search(contents):
    expected: dict[bytes, list[int]] = {}
    for number, content in enumerate(contents):
        expected.setdefault(content, []).append(number)
    assert groups(contents) == [group for group in expected.values() if len(group) > 1]


def flipped(word, *bits):
    for bit in bits:
        word ^= 1 << bit
    return word


WORD = 0x0123456789ABCDEF


def test_near_duplicates_differ_in_at_most_three_bits():
    rng = np.random.default_rng(0)
    for count in range(5):
        for _ in range(20):
            other = flipped(WORD, *rng.choice(64, count, replace=False).tolist())
            found = near_duplicates(words([0, WORD]), words([other]))
            assert found.first.tolist() == ([1] if count <= 3 else [])
            assert found.distance.tolist() == ([count] if count <= 3 else [])


def test_near_duplicates_with_one_bit_in_each_of_three_bands():
    assert len(near_duplicates(words([WORD]), words([flipped(WORD, 3, 20, 40)])).first) == 1
    assert len(near_duplicates(words([WORD]), words([flipped(WORD, 3, 20, 40, 60)])).first) == 0


def test_nearest_wins_then_the_lowest_number():
    first = words([flipped(WORD, 1, 2), flipped(WORD, 50), flipped(WORD, 9), flipped(WORD, 50)])
    found = near_duplicates(first, words([5, WORD]))
    assert (found.first.tolist(), found.second.tolist()) == ([1], [1])
    assert found.distance.tolist() == [1]


@pytest.mark.parametrize("at_once", [1, 7, 1 << 22])
def test_near_duplicates_equal_a_brute_force_search(monkeypatch, at_once):
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    # Few bits are ever set, so that many pairs are near.
    sparse = 1 << rng.integers(0, 64, (2, 120, 3)).astype(np.uint64)
    first, second = np.bitwise_or.reduce(sparse, axis=2)[:, :, None].squeeze()
    all_pairs = np.bitwise_count(first[None] ^ second[:, None]).astype(int)
    nearest = all_pairs.min(axis=1)
    found = near_duplicates(first, second)
    assert found.second.tolist() == np.flatnonzero(nearest <= 3).tolist()
    assert found.distance.tolist() == nearest[nearest <= 3].tolist()
    assert found.first.tolist() == all_pairs.argmin(axis=1)[nearest <= 3].tolist()
    assert 0 < len(found.first) < 120


def test_empty_sets():
    for first, second in ((words([]), words([1])), (words([1]), words([]))):
        assert len(near_duplicates(first, second).first) == 0


def test_many_hashes_with_an_equal_band():
    rng = np.random.default_rng(2)
    first = rng.integers(0, 1 << 48, 20_000).astype(np.uint64)  # the upper band is 0 in all
    found = near_duplicates(first, first[:500] ^ np.uint64(1 << 20))
    assert found.first.tolist() == list(range(500)) and set(found.distance.tolist()) == {1}
