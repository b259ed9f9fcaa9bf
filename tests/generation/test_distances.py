from typing import Any

import numpy as np
import pytest
import scipy.linalg
from sklearn.metrics import roc_auc_score

from mae.generation.distances import (
    copying,
    frechet_distance,
    nearest_rows,
    share_nearer,
    two_sample,
)

DRAW = np.random.default_rng(0)


def test_the_distance_is_that_of_fitted_gaussians():
    one = DRAW.normal(size=(60, 5)) @ DRAW.normal(size=(5, 5))
    other = DRAW.normal(size=(40, 5)) * 2 + 1
    covariances = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum()
    expected += np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    shift = np.full(5, 3.0)
    assert frechet_distance(one, one + shift) == pytest.approx(45)


def test_equal_sets_cannot_be_separated_and_distant_ones_can():
    one, other = DRAW.normal(size=(400, 3)), DRAW.normal(size=(400, 3))
    assert two_sample(one, other).accuracy == pytest.approx(0.5, abs=0.07)
    assert two_sample(one, other + 20) == (1, 1, 1)
    assert two_sample(one, one + 1e-6).accuracy == 0  # each has its copy as nearest neighbour


def test_samples_that_are_all_alike_are_seen_in_their_own_share():
    collapsed = DRAW.normal(size=(20, 2)).repeat(10, axis=0) + 1e-3 * DRAW.normal(size=(200, 2))
    found = two_sample(DRAW.normal(size=(200, 2)), collapsed)
    assert found.other > 0.95 > found.real and found.accuracy == (found.real + found.other) / 2


def test_nearest_rows_are_exact():
    among, vectors = DRAW.normal(size=(50, 4)) + 1000, DRAW.normal(size=(6, 4)) + 1000
    vectors[2] = among[17]
    found = nearest_rows(vectors, among, 3)
    distances = np.linalg.norm(vectors[:, None] - among, axis=2)
    assert np.allclose(found.distances[:, 0], distances.min(1), atol=1e-3)
    assert found.rows[2, 0] == 17 and found.distances[2, 0] == 0
    assert nearest_rows(vectors, among[:2], 9).rows.shape == (6, 2)


def test_training_features_are_read_in_blocks(monkeypatch):
    monkeypatch.setattr("mae.generation.distances.AMONG", 16)
    monkeypatch.setattr("mae.generation.distances.QUERIES", 4)
    among, vectors = DRAW.normal(size=(50, 4)).astype(np.float16), DRAW.normal(size=(6, 4))
    among[40] = among[3]
    vectors[1] = among[3]

    class Mapped:
        """Features that must not be copied as a whole."""

        def __len__(self):
            return len(among)

        def __getitem__(self, part):
            assert len(among[part]) <= 16
            return among[part]

        def __array__(self, *args, **kwargs):
            raise AssertionError("copied as a whole")

    mapped: Any = Mapped()
    found = nearest_rows(vectors, mapped, 20)
    distances = np.linalg.norm(vectors[:, None] - among.astype(float), axis=2)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, expected, 1))
    assert found.rows[1, :2].tolist() == [3, 40] and (found.distances[1, :2] == 0).all()


def test_copies_are_nearer_than_held_out_images():
    held_out = DRAW.uniform(1, 2, 80)
    same = copying(DRAW.uniform(1, 2, 90), held_out, 0)
    assert same.interval.low < 0.5 < same.interval.high and same.ratio == pytest.approx(1, abs=0.1)
    copies = copying(np.r_[np.zeros(5), DRAW.uniform(0, 0.5, 60)], held_out, 0)
    assert copies.nearer == 1 and copies.equal == 5 and copies.ratio is not None
    assert copies.ratio < 0.4 and copying(held_out, np.zeros(9), 0).ratio is None
    generated = DRAW.normal(size=70)
    expected = roc_auc_score(np.r_[np.ones(80), np.zeros(70)], np.r_[held_out, generated])
    assert share_nearer(generated, held_out) == pytest.approx(expected)
