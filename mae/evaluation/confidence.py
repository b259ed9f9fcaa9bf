"""Confidence intervals of accuracies and of their differences.  Pure functions."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
"""confidence level of all intervals"""

RESAMPLES = 10_000
"""bootstrap resamples"""

AUROC_RESAMPLES = 1000
"""bootstrap resamples of an area under the ROC curve, each of which sorts"""

CELLS = 2**22
"""numbers held at a time during the bootstrap: 32 MB"""


class Interval(NamedTuple):
    """Confidence interval: contains the true value in 95 of 100 such experiments."""

    low: float
    high: float


def wilson(accuracy: float, images: int, level: float = LEVEL) -> Interval:
    """Score interval of an accuracy on `images` images (Wilson 1927), valid also near 0 and 1.

    It covers the random choice of test images only.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (accuracy + z**2 / (2 * images)) / (1 + z**2 / images)
    spread = accuracy * (1 - accuracy) / images + z**2 / (4 * images**2)
    half = z * spread**0.5 / (1 + z**2 / images)
    # For an accuracy of 0 or 1 the interval ends exactly there, whatever the rounding.
    return Interval(min(accuracy, max(0.0, centre - half)), max(accuracy, min(1.0, centre + half)))


class Difference(NamedTuple):
    """Difference of the accuracies of two classifiers on the same images, -1 to 1."""

    mean: float
    interval: Interval


def paired_difference(
    right: npt.NDArray, other: npt.NDArray, seed: int, level: float = LEVEL
) -> Difference:
    """Mean and bootstrap interval of `right - other`, 0 or 1 each: [m] images, or [splits m].

    Both classifiers are evaluated on the same images and fitted to the same labels in each split:
    the pairing makes small differences significant.  The interval of a single image is -1 to 1.
    """
    change = np.atleast_2d(right).astype(np.float64) - np.atleast_2d(other)
    mean = float(change.mean())
    if change.shape[1] == 1:  # one image says nothing of others
        return Difference(mean, Interval(-1, 1))
    return Difference(mean, bootstrap(change, seed, level))


def share_right(right: npt.NDArray, seed: int, level: float = LEVEL) -> Interval:
    """Interval of the accuracy, the mean of `right` [splits m]: Wilson's for a single split.

    With several splits it is the bootstrap interval, widened to Wilson's where that is wider:
    where nearly all images are right, resampling them hardly changes anything.
    """
    images_alone = wilson(float(right.mean()), right.shape[1], level)
    if len(right) == 1:
        return images_alone
    both = bootstrap(right.astype(np.float64), seed, level)
    return Interval(min(both.low, images_alone.low), max(both.high, images_alone.high))


def bootstrap(values: npt.NDArray, seed: int, level: float = LEVEL) -> Interval:
    """Percentile bootstrap interval of the mean of `values` [splits m], RESAMPLES resamples.

    Rows and columns are resampled with replacement, independently (Owen 2007, "The pigeonhole
    bootstrap").  Of n rows n - 1 are drawn: that estimates the variance of their mean without
    bias (Rao and Wu 1988), where n draws underestimate it, and n is small here.  Drawing the
    number of times each distinct column occurs is equivalent to drawing columns.

    Percentiles suit a mean, which resampling does not bias (Efron and Tibshirani 1993, chapter
    13); for other statistics see `bca`.
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
    return _with(float(values.mean()), low, high)


def bca(
    estimate: float,
    drawn: npt.NDArray[np.float64],
    left_out: npt.NDArray[np.float64],
    level: float = LEVEL,
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval.

    Efron and Tibshirani 1993, section 14.3; DiCiccio and Efron 1996, section 2.  Unlike
    percentiles it is second-order accurate for statistics that are biased or skewed, such as
    ratios.  `drawn` [r]: the statistic in resamples; `left_out` [n]: in the data without each
    image (jackknife).  Resamples that equal the estimate count half to either side.  Where nearly
    all resamples are on one side, the interval of the formula may end before the estimate: it is
    widened to it.
    """
    normal = NormalDist()
    equal = np.isclose(drawn, estimate, rtol=0, atol=1e-12)
    below = float(((drawn < estimate) & ~equal).sum() + equal.sum() / 2) / len(drawn)
    bias = normal.inv_cdf(min(max(below, 1 / (len(drawn) + 1)), 1 - 1 / (len(drawn) + 1)))
    change = left_out.mean() - left_out
    spread = float((change**2).sum())
    skew = float((change**3).sum()) / (6 * spread**1.5) if spread > 1e-24 else 0.0
    places = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shift = bias + normal.inv_cdf(tail)
        stretch = 1 - skew * shift
        # At and beyond the pole of the formula: the last resample on that side.
        places.append(normal.cdf(bias + shift / stretch) if stretch > 0 else float(shift > 0))
    return _with(estimate, *np.quantile(drawn, places))


def _with(estimate: float, low: float, high: float) -> Interval:
    """Interval, widened to the estimate: rounding alone may put an end on its other side."""
    return Interval(min(estimate, float(low)), max(estimate, float(high)))


class Constant(NamedTuple):
    """Trivial classifier that always answers the commonest class of the test images."""

    label: int
    """the class; the smallest of equally common ones"""
    accuracy: float


def always_commonest(labels: npt.NDArray[np.int64]) -> Constant:
    """Best classifier that sees no image, for test images of the classes `labels` [m]."""
    classes, counts = np.unique(labels, return_counts=True)
    best = int(counts.argmax())
    return Constant(int(classes[best]), float(counts[best] / len(labels)))


def only_class(right: npt.NDArray, labels: npt.NDArray[np.int64]) -> int | None:
    """Class whose images alone, and all of them, are right (`right` [splits m]), in every split.

    That is what a classifier with one answer gives.  None for others, and where all images are of
    one class.
    """
    hits = np.atleast_2d(right).astype(bool)
    seen = np.unique(labels[hits.any(axis=0)])
    if len(seen) != 1 or len(np.unique(labels)) == 1:
        return None
    return int(seen[0]) if hits[:, labels == seen[0]].all() else None


def auroc(larger: npt.NDArray, smaller: npt.NDArray) -> float:
    """Share of pairs in which the value of `larger` is the larger; ties count half (Mann–Whitney).

    The area under the ROC curve of these values, for classes of any size.
    """
    ordered = np.sort(smaller)
    below = np.searchsorted(ordered, larger, "left") + np.searchsorted(ordered, larger, "right")
    return float(below.mean() / (2 * len(smaller)))


def auroc_interval(
    larger: npt.NDArray, smaller: npt.NDArray, chance: np.random.Generator
) -> Interval:
    """95 % interval of `auroc`, by percentiles of a bootstrap within the classes."""
    drawn = [
        auroc(*(chance.choice(part, len(part)) for part in (larger, smaller)))
        for _ in range(AUROC_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def balanced_accuracy(right: npt.NDArray, labels: npt.NDArray[np.int64]) -> float:
    """Mean of the per-class accuracies: `right` [m], 0 or 1 or a share of splits; `labels` [m]."""
    _, numbers = np.unique(labels, return_inverse=True)
    return float((np.bincount(numbers, right) / np.bincount(numbers)).mean())
