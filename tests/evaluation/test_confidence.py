import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from mae.evaluation.confidence import (
    balanced_accuracy,
    bootstrap,
    paired_difference,
    share_right,
    wilson,
)


@pytest.mark.parametrize(("right", "images"), [(0, 5), (3, 10), (5, 5), (480, 500), (1, 10_000)])
def test_wilson_equals_scipy(right, images):
    theirs = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right / images, images) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_bootstrap_equals_drawing_every_image():
    rng = np.random.default_rng(0)
    right, other = rng.random(300) < 0.7, rng.random(300) < 0.6
    found = paired_difference(right.astype(float), other.astype(float), seed=1)
    change = right.astype(float) - other
    drawn = change[rng.integers(0, 300, (20_000, 300))].mean(axis=1)
    assert found.mean == pytest.approx(change.mean())
    assert found.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.008)


def test_pairing_finds_differences_that_two_intervals_miss():
    right = np.arange(1000) < 700
    other = np.arange(1000) < 685  # wrong on the same images, and on 15 more
    assert wilson(0.7, 1000).low < wilson(0.685, 1000).high
    found = paired_difference(right.astype(float), other.astype(float), seed=0)
    assert found.mean == pytest.approx(0.015) and 0.005 < found.interval.low < 0.015


def test_shares_of_several_probes_are_averaged_first():
    right, other = np.array([[1, 1, 0, 0], [1, 0, 0, 0]]), np.zeros((2, 4))
    found = paired_difference(right.mean(0), other.mean(0), seed=0)
    assert found.mean == 0.375 and found.interval.low >= 0
    same = paired_difference(right.mean(0), right.mean(0), seed=0)
    assert same == (0, (0, 0))


def test_splits_and_images_are_drawn_together():
    """Reference: draws every split and every image one by one."""
    rng = np.random.default_rng(0)
    hard, luck = rng.random(120), np.array([-0.2, -0.05, 0.0, 0.1, 0.2])[:, None]
    right = rng.random((5, 120)) < hard + luck
    drawn = [
        right[rng.integers(0, 5, 4)][:, rng.integers(0, 120, 120)].mean() for _ in range(8_000)
    ]
    found = bootstrap(right.astype(float), seed=1)
    assert found == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    assert found == pytest.approx(share_right(right, seed=1))


def test_variance_over_splits_is_unbiased():
    """Splits differ by a known deviation alone: the variance of their mean is known."""
    rng = np.random.default_rng(0)
    variances = []
    for trial in range(60):
        values = np.repeat(rng.normal(0, 0.1, (5, 1)), 3, axis=1)
        low, high = bootstrap(values, seed=trial, level=0.6827)
        variances.append(((high - low) / 2) ** 2)
    assert np.mean(variances) == pytest.approx(0.1**2 / 5, rel=0.25)


def test_interval_stays_open_when_all_images_are_right():
    assert share_right(np.ones((5, 50), bool), seed=0) == wilson(1.0, 50)
    assert share_right(np.ones((1, 50), bool), seed=0) == wilson(1.0, 50)


def test_balanced_accuracy_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.array([5] * 80 + [2] * 15 + [9] * 5)
    guess = np.where(rng.random(100) < 0.6, labels, 5)
    expected = balanced_accuracy_score(labels, guess)
    found = balanced_accuracy((guess == labels).astype(float), labels)
    assert found == pytest.approx(expected)
    assert abs(expected - (guess == labels).mean()) > 0.1
