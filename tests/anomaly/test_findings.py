"""Findings on the data of a detector."""

import numpy as np
import pytest
from scipy import stats

from mae.anomaly.findings import (
    contamination,
    copies_lines,
    drift,
    drift_lines,
    tail,
    threshold_shift,
)
from mae.anomaly.looks import Copies
from mae.anomaly.threshold import conformal_threshold


def normal_scores(chance, count):
    """Skewed, as those of images are."""
    return np.exp(chance.normal(0, 0.25, count))


@pytest.mark.parametrize("count", [30, 85, 1000, 20_000])
def test_clean_scores_hardly_ever_warn(count):
    chance = np.random.default_rng(0)
    warned = sum(tail(normal_scores(chance, count)).is_long for _ in range(200))
    assert warned <= 4


def test_anomalous_images_among_the_normal_ones_are_named():
    chance = np.random.default_rng(0)
    scores = normal_scores(chance, 200)
    scores[[17, 40, 90, 91, 92, 93, 94, 95]] = 4 + np.arange(8)
    (line,) = contamination(scores, [f"image-{i}" for i in range(200)], "--normal")
    assert line.startswith("--normal: 8 of 200") or line.startswith("--normal: 9 of 200")
    assert "first image-95, image-94, image-93" in line and "take such out" in line
    assert contamination(normal_scores(chance, 200), [""] * 200, "--normal") == []


def test_a_threshold_that_anomalies_have_set_is_told():
    chance = np.random.default_rng(0)
    scores = normal_scores(chance, 200)
    assert threshold_shift(scores, conformal_threshold(scores, 0.05)) == []
    scores[:12] = 6
    found = conformal_threshold(scores, 0.05)
    (line,) = threshold_shift(scores, found)
    assert "largest scores the threshold would be 1." in line and "instead of 6" in line


def test_drift_warns_of_more_alarms_and_of_a_shift_and_else_rarely():
    chance = np.random.default_rng(0)
    warned = 0
    for _ in range(200):
        calibration = normal_scores(chance, 150)
        found = drift(
            normal_scores(chance, 100), calibration, conformal_threshold(calibration, 0.05)
        )
        warned += bool(drift_lines(found, 100))
    assert warned <= 2
    calibration = normal_scores(chance, 200)
    threshold = conformal_threshold(calibration, 0.05)
    moved = drift(2 * normal_scores(chance, 100), calibration, threshold)
    (line,) = drift_lines(moved, 100)
    assert "of 100 images are above the threshold, where normal ones give" in line
    assert moved.median_p < 0.1 and "median 0.0" in moved.line
    smaller = drift(0.7 * normal_scores(chance, 100), calibration, threshold)
    (line,) = drift_lines(smaller, 100)
    assert "are smaller than those of the calibration" in line
    expected = stats.ks_2samp(0.7 * normal_scores(np.random.default_rng(1), 100), calibration)
    assert smaller.distance == pytest.approx(expected.statistic, abs=0.15)


def test_copies_are_counted_by_kind():
    found = Copies(2, 1, np.array([True, True, True, False]), (0, 4))
    (line,) = copies_lines(found, 4, "--test", "the others", ("a", "b"), "use others")
    assert line == (
        "--test: 3 of 4 images are among the others too (2 byte for byte, 1 nearly equal; "
        "first a, like b): use others"
    )
    assert not copies_lines(found._replace(exact=0, near=0), 4, "", "", ("", ""), "")
