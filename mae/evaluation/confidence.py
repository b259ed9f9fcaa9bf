"""How sure an accuracy is, given the number of test images.  Pure functions."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 10_000
CELLS = 2**22
"""numbers of resamples looked at at a time: 32 MB"""


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
    """Mean and bootstrap interval of `right - other`, 0 or 1 each: [m] images, or [splits m].

    Both classifiers are judged on the same images, and given the same labels in each split, which
    is what makes small differences visible.
    """
    change = np.atleast_2d(right).astype(np.float64) - np.atleast_2d(other)
    return Difference(float(change.mean()), bootstrap(change, seed, level))


def share_right(right: npt.NDArray, seed: int, level: float = LEVEL) -> Interval:
    """Of the mean of `right` [splits m]: Wilson's for one split.

    With several splits the bootstrap's, but nowhere narrower than Wilson's: where nearly all
    images are right, drawing them anew hardly changes anything.
    """
    images_alone = wilson(float(right.mean()), right.shape[1], level)
    if len(right) == 1:
        return images_alone
    both = bootstrap(right.astype(np.float64), seed, level)
    return Interval(min(both.low, images_alone.low), max(both.high, images_alone.high))


def bootstrap(values: npt.NDArray, seed: int, level: float = LEVEL) -> Interval:
    """Percentile interval of the mean of `values` [splits m], drawn anew 10,000 times.

    Rows and columns are drawn with replacement, independently (Owen 2007, "The pigeonhole
    bootstrap").  One row fewer than there are is drawn: of n rows n - 1 give the variance of
    their mean without bias (Rao and Wu 1988), n too little of it, and n is small here.  Drawing
    how often each different column occurs is the same as drawing columns.
    """
    rows = len(values)
    columns, counts = np.unique(np.round(values, 9), axis=1, return_counts=True)
    chance, drawn, images = np.random.default_rng(seed), max(1, rows - 1), counts.sum()
    weights = chance.multinomial(drawn, np.full(rows, 1 / rows), size=RESAMPLES) / drawn
    means = [
        ((part @ columns) * chance.multinomial(images, counts / images, len(part))).sum(1) / images
        for part in np.array_split(weights, -(-RESAMPLES * len(counts) // CELLS))
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def balanced_accuracy(right: npt.NDArray, labels: npt.NDArray[np.int64]) -> float:
    """Mean over the classes of the accuracy within each: `right` [m] as above, `labels` [m]."""
    _, numbers = np.unique(labels, return_inverse=True)
    return float((np.bincount(numbers, right) / np.bincount(numbers)).mean())
