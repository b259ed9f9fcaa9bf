"""How sure an accuracy is, given the number of test images.  Pure functions."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 10_000


class Interval(NamedTuple):
    """Holds the true value in 95 of 100 such experiments."""

    low: float
    high: float


def wilson(accuracy: float, images: int, level: float = LEVEL) -> Interval:
    """The score interval of a share of `images` (Wilson 1927): right also near 0 and 1.

    The chance is that of the test images alone.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (accuracy + z**2 / (2 * images)) / (1 + z**2 / images)
    spread = accuracy * (1 - accuracy) / images + z**2 / (4 * images**2)
    half = z * spread**0.5 / (1 + z**2 / images)
    # At 0 and 1 it touches them; there rounding must not keep it from doing so.
    return Interval(min(accuracy, max(0.0, centre - half)), max(accuracy, min(1.0, centre + half)))


class Difference(NamedTuple):
    """How much more often one classifier is right than another, on the same images."""

    mean: float
    interval: Interval


def paired_difference(
    right: npt.NDArray, other: npt.NDArray, seed: int, level: float = LEVEL
) -> Difference:
    """Mean and percentile-bootstrap interval of `right - other`, [m] each: one row an image.

    0 or 1, or the share of several probes that were right.  Images are drawn with replacement,
    10,000 times; both classifiers are judged on the same ones, which is what makes small
    differences visible.  Drawing how often each value of the difference occurs is the same.
    """
    values, counts = np.unique(np.round(right - other, 9), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(
        counts.sum(), counts / counts.sum(), size=RESAMPLES
    )
    low, high = np.quantile(drawn @ values / counts.sum(), [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(np.mean(right - other)), Interval(float(low), float(high)))


def balanced_accuracy(right: npt.NDArray, labels: npt.NDArray[np.int64]) -> float:
    """Mean over the classes of the accuracy within each: `right` [m] as above, `labels` [m]."""
    _, numbers = np.unique(labels, return_inverse=True)
    return float((np.bincount(numbers, right) / np.bincount(numbers)).mean())
