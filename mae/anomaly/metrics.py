"""Measures of a detector on labelled images, with intervals."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from mae.anomaly.threshold import Range, Scores, Threshold, conformal_threshold, exact_interval
from mae.evaluation.confidence import auroc_interval

TRIVIAL = 0.9
"""AUROC of raw pixels from which anomalies leak or are trivial"""
NO_SIGNAL = 0.55
"""AUROC below which nothing that was tried tells anomalies from normal images"""

Flags = npt.NDArray[np.bool_]


class Separation(NamedTuple):
    """Separation of anomalous from normal images by their scores."""

    auroc: float
    """probability that an anomalous image has a larger score than a normal one"""
    interval: Range
    """95 %, bootstrap within the classes"""
    average_precision: float


def separation(scores: Scores, anomalous: Flags, seed: int = 0) -> Separation:
    """AUROC and average precision of `scores` [n]; both classes must occur."""
    chance = np.random.default_rng(seed)
    interval = auroc_interval(scores[anomalous], scores[~anomalous], chance)
    return Separation(
        float(roc_auc_score(anomalous, scores)),
        Range(*interval),
        float(average_precision_score(anomalous, scores)),
    )


def decisions(scores: Scores, anomalous: Flags, threshold: Threshold) -> dict[str, Any]:
    """Detection and false alarms at the threshold, with intervals by Clopper and Pearson.

    `expected`: 99 % range of the number of false alarms, if the normal images are like those of
    the calibration.
    """
    alarms = scores > threshold.value
    normals, false = int((~anomalous).sum()), int((alarms & ~anomalous).sum())
    found, total = int((alarms & anomalous).sum()), int(anomalous.sum())
    low, high = threshold.alarm_range(normals) if normals else Range(0.0, 0.0)
    return {
        "detected": found,
        "anomalous": total,
        "detection_rate": found / total if total else None,
        "detection_interval": list(exact_interval(found, total)),
        "false_alarms": false,
        "normal": normals,
        "false_alarm_rate": false / normals if normals else None,
        "false_alarm_interval": list(exact_interval(false, normals)),
        "expected_false_alarms": [low, high],
        "as_expected": bool(low <= false <= high),
    }


def member_row(
    about: str,
    scores: Scores,
    calibration: Scores,
    anomalous: Flags,
    alpha: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Row of one member: separation, and decisions at its own threshold."""
    row: dict[str, Any] = {"member": about}
    if anomalous.any() and not anomalous.all():
        row |= separation(scores, anomalous, seed)._asdict()
    threshold = conformal_threshold(calibration, alpha)
    return {**row, "threshold": threshold.value, **decisions(scores, anomalous, threshold)}


def words(rows: dict[str, dict[str, Any]], main: str) -> list[str]:
    """Lines on results that are too good or too bad, and on baselines that win."""
    lines = []
    known = {name: row["auroc"] for name, row in rows.items() if "auroc" in row}
    if not known:
        return lines
    pixels = [value for name, value in known.items() if rows[name]["member"].startswith("pixels")]
    if pixels and max(pixels) > TRIVIAL:
        lines.append(
            f"raw pixels reach {max(pixels):.2f}: the anomalies are trivial, or something else "
            "differs between normal and anomalous images (camera, crop, day)"
        )
    if max(known.values()) < NO_SIGNAL:
        lines.append(
            f"nothing is above {NO_SIGNAL}: normal images do not tell what is anomalous here; "
            "label some anomalies and fine-tune a classifier"
        )
    best = max(known, key=lambda name: known[name])
    if best != main and known[best] > known[main]:
        lines.append(
            f"{rows[best]['member']} ({known[best]:.3f}) is better than the detector "
            f"({known[main]:.3f}): use that"
        )
    if not rows[main]["as_expected"]:
        low, high = rows[main]["expected_false_alarms"]
        lines.append(
            f"{rows[main]['false_alarms']} false alarms, where {low:.0f} to {high:.0f} are "
            "expected: the normal test images are unlike those of the calibration"
        )
    return lines
