"""Trustworthiness and neighbour recall."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from mae.similarity import quality
from mae.similarity.quality import agreements, at_unit_length, sampled


@pytest.fixture(scope="module")
def spaces():
    rng = np.random.default_rng(1)
    original = rng.normal(size=(150, 8))
    reduced = {"first two": original[:, :2], "noise": rng.normal(size=(150, 2)), "all": original}
    return original, reduced


@pytest.mark.parametrize("k", [3, 10])
def test_trustworthiness_is_that_of_scikit_learn(spaces, k, monkeypatch):
    original, reduced = spaces
    monkeypatch.setattr(quality, "BLOCK", 40)
    found = agreements(original, reduced, k=k)
    for name, one in reduced.items():
        oracle = trustworthiness(original, one, n_neighbors=k)
        assert found[name].trustworthiness == pytest.approx(oracle, abs=1e-12)
    assert found["all"] == (1.0, 1.0, None)


def test_cosines_are_distances_at_unit_length(spaces):
    original, reduced = spaces
    found = agreements(at_unit_length(original), reduced)["first two"].trustworthiness
    oracle = trustworthiness(original, reduced["first two"], n_neighbors=10, metric="cosine")
    assert found == pytest.approx(oracle, abs=1e-12)


def test_recall_and_classes_are_counted_among_the_neighbours(spaces):
    original, reduced = spaces
    labels = np.arange(150) % 4
    labels[::5] = -1
    found = agreements(original, reduced, labels)["first two"]

    def near(space):
        return NearestNeighbors(n_neighbors=10).fit(space).kneighbors(return_distance=False)

    theirs, ours = near(original), near(reduced["first two"])
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(theirs, ours, strict=True)])
    known = labels >= 0
    same = (labels[ours[known]] == labels[known][:, None]).mean()
    assert found.recall == pytest.approx(recall) and found.same_class == pytest.approx(same)


def test_a_sample_is_drawn_by_the_seed():
    assert sampled(7).tolist() == list(range(7))
    chosen = sampled(1000, seed=3, most=100)
    assert len(set(chosen.tolist())) == 100 and (np.diff(chosen) > 0).all()
    assert chosen.tolist() == sampled(1000, seed=3, most=100).tolist()
    assert chosen.tolist() != sampled(1000, seed=4, most=100).tolist()
