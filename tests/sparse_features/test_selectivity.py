"""Selectivity from histograms, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mae.sparse_features.selectivity import (
    LEAST_BINS,
    Edges,
    bins_for,
    edges_of,
    evenly,
    histogram,
    most_classes,
    selectivity,
)


@pytest.fixture
def sizes():
    """Sizes of 5 latents in 400 images, and the classes: the second latent fires in class 2."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    values = rng.exponential(size=(400, 5)) * (rng.random((400, 5)) < 0.5)
    values[:, 1] = np.where(labels == 2, 1 + rng.random(400), 0.3 * values[:, 1])
    values[:, 4] = 0
    return values, labels


def test_auroc_is_that_of_the_binned_values(sizes):
    values, labels = sizes
    edges = edges_of(values, 32)
    bins = edges.of(values)
    found = selectivity(histogram(bins, labels, 32, 4))
    for latent in range(5):
        exact = [roc_auc_score(labels == c, bins[:, latent]) for c in range(4)]
        np.testing.assert_allclose(found.by_class[latent], exact, atol=1e-12)
        assert found.auroc[latent] == pytest.approx(max(exact))
    assert found.best[1] == 2 and found.auroc[1] > 0.95
    near = [roc_auc_score(labels == 2, values[:, 1]), found.by_class[1, 2]]
    assert near[0] == pytest.approx(near[1], abs=0.02), "31 bins are nearly exact"
    assert (found.by_class[4] == 0.5).all() and found.precision[4] == 0


def test_histograms_of_parts_add_up(sizes):
    values, labels = sizes
    edges = edges_of(values, 8)
    whole = histogram(edges.of(values), labels, 8, 4)
    parts = sum(
        histogram(edges.of(values[part]), labels[part], 8, 4)
        for part in np.array_split(np.arange(400), 3)
    )
    assert np.array_equal(whole, parts) and whole.sum() == 5 * 400


def test_bins_hold_zero_small_and_large_values():
    edges = Edges(0.1, 10.0, 6)
    assert edges.of(np.array([-1.0, 0.0, 1e-9, 0.1, 9.999, 10.0, 1e9])).tolist() == [
        0,
        0,
        1,
        1,
        4,
        5,
        5,
    ]
    two = Edges(0.1, 10.0, 2)
    assert two.of(np.array([0.0, 0.01, 50.0])).tolist() == [0, 1, 1]


def test_memory_bounds_the_bins():
    assert bins_for(1000, 10) == 32
    assert bins_for(8192, 100) == 20
    assert bins_for(8192, 10_000) == 0
    assert most_classes(4608) == 227 and bins_for(4608, 227) == LEAST_BINS
    assert bins_for(4608, 228) == 0


def test_the_least_bins_are_enough():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    values = np.exp(0.5 * rng.normal(size=(4000, 1)) + 0.6 * labels[:, None])
    exact = roc_auc_score(labels, values[:, 0])
    found = {}
    for bins in (2, LEAST_BINS):
        edges = edges_of(values, bins)
        found[bins] = selectivity(histogram(edges.of(values), labels, bins, 2)).by_class[0, 1]
    assert exact > 0.75 and found[LEAST_BINS] == pytest.approx(exact, abs=0.01)
    assert found[2] == 0.5, "all fire"


def test_latents_are_spread_evenly():
    assert evenly(np.arange(9), 3).tolist() == [0, 4, 8]
    assert evenly(np.arange(2), 3).tolist() == [0, 1]
