"""Measures of a detector."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mae.anomaly.metrics import decisions, member_row, separation, words
from mae.anomaly.threshold import conformal_threshold
from mae.evaluation.confidence import auroc


def test_auroc_equals_that_of_scikit_learn_also_with_ties():
    chance = np.random.default_rng(0)
    scores, anomalous = chance.integers(0, 9, 80).astype(float), chance.random(80) > 0.6
    expected = roc_auc_score(anomalous, scores)
    assert auroc(scores[anomalous], scores[~anomalous]) == pytest.approx(expected)
    found = separation(scores, anomalous)
    assert found.auroc == pytest.approx(expected)
    assert found.interval.low < expected < found.interval.high


def test_decisions_are_counted():
    threshold = conformal_threshold(np.arange(99.0), 0.05)  # 94
    scores = np.array([94.0, 95.0, 200.0, 3.0])
    found = decisions(scores, np.array([False, False, True, True]), threshold)
    assert (found["detected"], found["false_alarms"]) == (1, 1)
    assert found["detection_rate"] == 0.5 and found["false_alarm_rate"] == 0.5
    alone = decisions(scores, np.zeros(4, bool), threshold)
    assert alone["detection_rate"] is None and alone["anomalous"] == 0


def test_words_for_results_that_mislead():
    calibration = np.linspace(0, 1, 99)
    anomalous = np.arange(80) >= 40
    normal = np.tile(np.linspace(0, 1, 40), 2)

    def said(main, pixels):
        rows = {
            "detector": member_row("encoder, pca", main, calibration, anomalous, 0.05),
            "pixels, pca": member_row("pixels, pca", pixels, calibration, anomalous, 0.05),
        }
        return " | ".join(words(rows, "detector"))

    apart = normal + 2 * anomalous
    assert "raw pixels reach 1.00" in said(normal, apart)
    assert "pixels, pca (1.000) is better than the detector (0.500)" in said(normal, apart)
    assert "nothing is above 0.55" in said(normal, normal)
    assert "false alarms, where 0 to" in said(apart + 5, normal)
    assert said(normal + 0.3 * anomalous, normal) == ""
