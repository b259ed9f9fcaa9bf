"""Conformal thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mae.anomaly.threshold import MARGIN, conformal_threshold, exact_interval, p_values
from mae.base.errors import UserError


def test_the_rank_is_that_of_the_definition():
    scores = np.random.default_rng(0).permutation(np.arange(99.0))
    found = conformal_threshold(scores, 0.05)
    assert found.rank == 95 and found.value == pytest.approx(94, rel=3e-5)  # 95th smallest of 99
    assert conformal_threshold(np.arange(19.0), 0.05).value == pytest.approx(18, rel=3e-5)
    assert conformal_threshold(np.arange(99.0), 0.01).rank == 99


def test_every_calibration_score_is_clearly_on_its_side():
    """Also where the scores about the threshold are equal, or differ by their rounding alone."""
    scores = 1 + np.arange(199) / 100
    scores[189:193] = scores[189] * (1 + 1e-6 * np.arange(4))
    found = conformal_threshold(scores, 0.05)
    assert found.rank == 193 and scores[192] < found.value < scores[193]
    assert np.abs(scores / found.value - 1).min() > MARGIN / 2
    same = conformal_threshold(np.ones(40), 0.05)
    assert same.rank == 40 and 1 < same.value < 1.0001
    assert conformal_threshold(np.zeros(40), 0.05).value == 0


def test_too_few_images_are_refused_with_what_would_do():
    with pytest.raises(UserError, match=r"18 images.* 0.05 needs 19 or more.*--alpha 0.053"):
        conformal_threshold(np.arange(18.0), 0.05)
    with pytest.raises(UserError, match=r"85 images; a false-alarm rate of 0.01 needs 99"):
        conformal_threshold(np.arange(85.0), 0.01)


@given(n=st.integers(1, 300), alpha=st.floats(0.005, 0.9))
def test_a_new_normal_image_is_called_anomalous_with_probability_alpha_at_most(n, alpha):
    try:
        found = conformal_threshold(np.arange(float(n)), alpha)
    except UserError:
        assert n + 1 < 1 / alpha + 1e-6
        return
    chance = (n + 1 - found.rank) / (n + 1)
    assert chance <= alpha + 1e-9
    assert chance + 1 / (n + 1) > alpha - 1e-9  # no stricter than it must be


def test_rates_follow_their_distribution():
    """Counted over many calibrations: mean, range of the rate, range of the alarms."""
    chance = np.random.default_rng(0)
    rates, alarms = [], []
    for _ in range(4000):
        found = conformal_threshold(chance.random(85), 0.05)
        rates.append(1 - found.value)
        alarms.append((chance.random(200) > found.value).sum())
    rates, alarms = np.array(rates), np.array(alarms)
    low, high = found.rate_range()
    assert np.mean((rates < low) | (rates > high)) == pytest.approx(0.05, abs=0.012)
    assert np.mean(rates) == pytest.approx((86 - found.rank) / 86, abs=0.002)
    low, high = found.alarm_range(200)
    assert np.mean((alarms < low) | (alarms > high)) < 0.012
    assert stats.betabinom(200, 86 - found.rank, found.rank).cdf(high) >= 0.99


def test_p_values_count_calibration_images():
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    assert p_values(np.array([0.0, 2.0, 2.5, 9.0]), calibration).tolist() == [1.0, 0.8, 0.4, 0.2]


def test_exact_interval():
    assert exact_interval(0, 0) == (0, 1)
    assert exact_interval(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert exact_interval(3, 10) == pytest.approx((0.0667, 0.6525), abs=1e-4)
