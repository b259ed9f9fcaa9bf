"""Retrieval, exact and by an index."""

import sys

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.evaluation.nearest import Neighbours, centre_of, nearest
from mae.similarity import retrieval
from mae.similarity.features import Vectors
from mae.similarity.retrieval import retrieve


def silent(text):
    """Print nothing."""


@pytest.fixture(scope="module")
def among():
    values = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float16)
    return Vectors(values, np.arange(600), np.full(600, -1))


def test_samples_do_not_find_themselves_and_files_do(among):
    own = np.array([4, 9])
    found = retrieve(among.values[own], among, 3, own=own, log=silent)
    assert found.recall is None and found.neighbours.rows.shape == (2, 3)
    assert not (found.neighbours.rows == own[:, None]).any()
    files = retrieve(among.values[own], among, 4, log=silent).neighbours
    assert files.rows[:, 0].tolist() == [4, 9]
    np.testing.assert_array_equal(files.rows[:, 1:], found.neighbours.rows)


def test_an_index_finds_the_same_and_is_made_once(among, tmp_path):
    index, lines = tmp_path / "i.usearch", []
    queries = np.random.default_rng(1).normal(size=(5, 16))
    exact = retrieve(queries, among, 5, log=silent).neighbours
    first = retrieve(queries, among, 5, index=index, log=lines.append)
    assert first.recall is not None and first.recall > 0.9
    np.testing.assert_array_equal(first.neighbours.rows, exact.rows)
    np.testing.assert_allclose(first.neighbours.cosine, exact.cosine, atol=1e-6)
    again = retrieve(queries, among, 5, index=index, log=lines.append)
    assert again.recall == first.recall and "made before" in lines[-1]
    index.write_bytes(b"damaged")
    repaired = retrieve(queries, among, 5, index=index, log=lines.append)
    np.testing.assert_array_equal(repaired.neighbours.rows, exact.rows)
    assert "made before" not in lines[-1]


def test_usearch_is_named_where_it_is_missing(among, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(UserError, match=r"maekit\[search\]"):
        retrieve(among.values[:1], among, 1, index=tmp_path / "i", log=silent)


def test_the_recall_counts_other_images_alone(among, tmp_path, monkeypatch):
    """A search that finds the query itself and nothing else that is near finds nothing."""

    def searched(graph, queries, among, centre, k):
        own = np.array([np.flatnonzero((among.values == one).all(axis=1))[0] for one in queries])
        far = nearest(2 * centre - queries, among.values, k - 1, centre=centre)
        rows = np.concatenate([own[:, None], far.rows], axis=1)
        return Neighbours(rows, np.zeros(rows.shape, np.float32))

    monkeypatch.setattr(retrieval, "_searched", searched)
    assert (
        retrieval._open_index(tmp_path / "i.usearch", among, centre_of(among.values), silent)[1]
        == 0
    )
