"""Conformal thresholds: a false-alarm rate that holds for any scores, without anomalous images.

With n calibration scores of normal images and the k-th smallest as threshold, a further normal
image, exchangeable with them, exceeds it with probability at most (n + 1 - k) / (n + 1) (Vovk et
al. 2005, "Algorithmic Learning in a Random World", section 2.2).  The rate of a given detector
varies with its calibration images: it follows Beta(n + 1 - k, k) where scores have no ties (Vovk
2012, "Conditional validity of inductive conformal predictors", proposition 2a).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from mae.base.errors import UserError

MARGIN = 2e-5
"""room between a threshold and the calibration scores about it, as a share of the threshold: the
rounding of another computer, or of an exported program, then changes no label of theirs"""

Scores = npt.NDArray[np.float64]


class Range(NamedTuple):
    """Lowest and highest value."""

    low: float
    high: float


class Threshold(NamedTuple):
    """Score above which an image is called anomalous."""

    value: float
    alpha: float
    """chosen false-alarm rate"""
    calibration: int
    """number n of calibration images"""
    rank: int
    """k: the threshold lies just above the k-th smallest calibration score"""

    def rate_range(self, level: float = 0.95) -> Range:
        """Central interval of the false-alarm rate that detectors calibrated like this have."""
        beta = stats.beta(self.calibration + 1 - self.rank, self.rank)
        return Range(*map(float, beta.interval(level)))

    def alarm_range(self, normals: int, level: float = 0.99) -> Range:
        """Smallest central range of the number of alarms among `normals` further normal images."""
        spread = stats.betabinom(normals, self.calibration + 1 - self.rank, self.rank)
        return Range(*map(float, spread.interval(level)))


def conformal_threshold(scores: Scores, alpha: float) -> Threshold:
    """Threshold of false-alarm rate `alpha`, in (0, 1), from the scores [n] of normal images.

    Just above the k-th smallest score, with k = ceil((n + 1) (1 - alpha)) or, where the next score
    is as large to within twice MARGIN, the next k where it is not.  So the rate holds, and every
    score of the calibration is clearly on its side.

    Raises UserError where n < 1/alpha - 1: no score is large enough then.
    """
    count = len(scores)
    # Rounded, since 20 * (1 - 0.05) is a little above 19 in floating point.
    rank = math.ceil(round((count + 1) * (1 - alpha), 9))
    if rank > count:
        least = math.ceil(round(1 / alpha - 1, 9))
        raise UserError(
            f"--calibration: {count:,} images; a false-alarm rate of {alpha:g} needs {least:,} or "
            f"more: add images, or choose --alpha {1 / (count + 1):.2g} or more"
        )
    ordered = np.sort(scores)
    room = np.append(np.diff(ordered), np.inf)
    while room[rank - 1] <= 2 * MARGIN * abs(ordered[rank - 1]):
        rank += 1
    value = ordered[rank - 1]
    value += min(room[rank - 1] / 2, MARGIN * abs(value))
    return Threshold(float(value), alpha, count, rank)


def p_values(scores: Scores, calibration: Scores) -> Scores:
    """Conformal p-values [m] of `scores` [m]: share of normal images with as large a score.

    (1 + number of `calibration` scores at least as large) / (n + 1); small for anomalies.
    """
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, "left")
    return (1 + at_least) / (len(ordered) + 1)


def exact_interval(hits: int, count: int, level: float = 0.95) -> Range:
    """Interval of a share by Clopper and Pearson (1934); [0, 1] for no image at all."""
    if not count:
        return Range(0.0, 1.0)
    found = stats.binomtest(hits, count).proportion_ci(level, method="exact")
    return Range(float(found.low), float(found.high))
