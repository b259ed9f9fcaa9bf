"""Exact nearest neighbours."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mae.evaluation import nearest as module
from mae.evaluation.nearest import nearest


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(300, 12)).astype(np.float16)


def test_neighbours_are_those_of_scikit_learn(vectors):
    found = nearest(vectors, vectors, 7, own=np.arange(300))
    oracle = NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors.astype(np.float64))
    distance, rows = oracle.kneighbors(n_neighbors=7)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.cosine, 1 - distance, atol=1e-6)


def test_blocks_do_not_change_the_result(vectors, monkeypatch):
    whole = nearest(vectors, vectors, 20, own=np.arange(300))
    for name, value in (("QUERIES", 7), ("AMONG", 13), ("VALUES", 100)):
        monkeypatch.setattr(module, name, value)
    parts = nearest(vectors, vectors, 20, own=np.arange(300))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_row_is_no_neighbour_of_its_own_but_its_copy_is(vectors):
    doubled = np.concatenate([vectors[:5], vectors[:5]])
    found = nearest(doubled, doubled, 1, own=np.arange(10))
    assert found.rows[:, 0].tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)


def test_fewer_rows_than_wanted_and_rows_of_zeros():
    among = np.zeros((3, 2), np.float32)
    among[2] = 1
    found = nearest(among, among, 9, own=np.arange(3))
    assert found.rows.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert found.cosine.tolist() == [[0, 0]] * 3
    assert nearest(among[:0], among, 2).rows.shape == (0, 2)


@pytest.mark.parametrize("blocks", [{}, {"QUERIES": 7, "AMONG": 13, "VALUES": 100}])
def test_earlier_neighbours_of_centred_vectors_are_those_of_the_whole_matrix(
    vectors, monkeypatch, blocks
):
    for name, value in blocks.items():
        monkeypatch.setattr(module, name, value)
    shifted = (vectors + 3).astype(np.float16)
    centre = shifted.astype(np.float64).mean(axis=0)
    found = nearest(shifted, shifted, 2, own=np.arange(300), earlier=True, centre=centre)
    values = shifted - centre
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    cosine = np.where(np.tri(300, k=-1, dtype=bool), values @ values.T, -np.inf)
    rows = np.argsort(-cosine, axis=1, kind="stable")[:, :2]
    np.testing.assert_array_equal(found.rows[2:], rows[2:])
    np.testing.assert_allclose(found.cosine, np.take_along_axis(cosine, rows, axis=1), atol=1e-6)
