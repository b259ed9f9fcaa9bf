import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from mae.evaluation.confidence import (
    always_commonest,
    balanced_accuracy,
    bca,
    bootstrap,
    only_class,
    paired_difference,
    share_right,
    wilson,
)


@pytest.mark.parametrize(("right", "images"), [(0, 5), (3, 10), (5, 5), (480, 500), (1, 10_000)])
def test_wilson_equals_scipy(right, images):
    theirs = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right / images, images) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_trivial_classifiers():
    labels = np.array([4, 7, 7, 7, 9])
    assert always_commonest(labels) == (7, 0.6)
    assert always_commonest(np.array([3, 1])) == (1, 0.5)
    assert only_class(labels == 7, labels) == 7
    assert only_class(np.stack([labels == 7, labels == 7]), labels) == 7
    for right in (labels < 9, labels < 0, [False, True, False, True, False]):
        assert only_class(np.array(right), labels) is None
    assert only_class(np.stack([labels == 7, labels == 9]), labels) is None
    assert only_class(np.array([True, True]), np.array([2, 2])) is None


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


def _contains(interval, estimate):
    return interval.low <= estimate <= interval.high


@pytest.mark.parametrize("images", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("splits", [1, 2, 3, 4, 7])
def test_intervals_contain_the_estimate(images, splits):
    """All right, all wrong, one image of them, and thirds, which no sum of floats hits exactly."""
    one = np.zeros((splits, images))
    one[:, 0] = 1
    cases = [np.ones((splits, images)), np.zeros((splits, images)), one, 1 - one]
    for right in cases:
        assert _contains(share_right(right, 0), right.mean())
        assert _contains(wilson(right.mean(), images), right.mean())
        for other in cases:
            mean, interval = paired_difference(right, other, 0)
            assert mean == (right - other).mean() and _contains(interval, mean)
    for values in (np.full((splits, images), 1 / 3), np.full((splits, images), 0.1)):
        assert _contains(bootstrap(values, 0), values.mean())


def test_one_image_says_nothing_of_a_difference():
    found = paired_difference(np.ones((1, 1)), np.zeros((1, 1)), 0)
    assert found.mean == 1 and found.interval == (-1, 1)


def test_bca_equals_scipy():
    values = np.random.default_rng(0).exponential(size=40)
    statistic = lambda x: x.std() / x.mean()  # noqa: E731  # skewed and biased
    rng = np.random.default_rng(1)
    drawn = np.array([statistic(values[rng.integers(0, 40, 40)]) for _ in range(20_000)])
    left_out = np.array([statistic(np.delete(values, i)) for i in range(40)])
    found = bca(statistic(values), drawn, left_out)
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: x.std(axis=axis) / x.mean(axis=axis),
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.015)
    assert abs(found.high - np.quantile(drawn, 0.975)) > 0.02  # percentiles differ


@pytest.mark.parametrize("side", [-1, 1])
def test_bca_contains_an_estimate_beyond_all_resamples(side):
    drawn = np.linspace(0.4, 0.6, 500)
    left_out = np.random.default_rng(0).normal(0.5, 0.1, 30) ** 3
    estimate = 0.5 + side * 0.3
    found = bca(estimate, drawn, left_out)
    assert found.low <= estimate <= found.high
    assert bca(0.5, np.full(100, 0.5), np.full(30, 0.5)) == (0.5, 0.5)
