"""Class selectivity of latents, from histograms of their maximum in each image.

Histograms need no more memory for more images; AUROC is that of the binned values.  Two images in
one bin count as a tie, so that few bins draw AUROC to .5: there are at least LEAST_BINS, and as
many for all that is compared, or no histograms at all.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_BINS = 32
"""maximum number of bins"""
LEAST_BINS = 16
"""minimum number of bins"""
MOST_CELLS = 1 << 24
"""maximum size of the histograms of all latents and principal directions together"""


class Edges(NamedTuple):
    """Bins of values: 0 and below, then between `low` and `high`, evenly in the logarithm."""

    low: float
    high: float
    bins: int
    """number of bins, that of 0 included"""

    def of(self, values: npt.NDArray[Any]) -> Counts:
        """Bin of each value."""
        found = np.zeros(values.shape, np.int64)
        is_positive = values > 0
        if self.bins > 2:
            span = np.log(max(self.high / self.low, 1 + 1e-9))
            share = np.log(np.maximum(values[is_positive], 1e-300) / self.low) / span
            inner = np.floor(share * (self.bins - 2)).clip(0, self.bins - 2)
            found[is_positive] = 1 + inner.astype(np.int64)
        else:
            found[is_positive] = 1
        return found


def bins_for(compared: int, classes: int) -> int:
    """Number of bins that the memory allows for all that is `compared`; 0: fewer than LEAST_BINS.

    `compared`: number of latents and of principal directions together.
    """
    bins = min(MOST_BINS, MOST_CELLS // max(1, compared * classes))
    return bins if bins >= LEAST_BINS else 0


def most_classes(compared: int) -> int:
    """Maximum number of classes for which `bins_for` finds bins."""
    return MOST_CELLS // (compared * LEAST_BINS)


def edges_of(values: npt.NDArray[Any], bins: int) -> Edges:
    """Bins from some positive values: their 1st percentile to their maximum."""
    positive = values[values > 0]
    if not len(positive):
        return Edges(1.0, 2.0, bins)
    low, high = float(np.quantile(positive, 0.01)), float(positive.max())
    return Edges(low, max(high, 1.001 * low), bins)


class Selectivity(NamedTuple):
    """Class that each latent is largest in."""

    best: Counts
    """[n] class of the largest AUROC"""
    auroc: Floats
    """[n] its AUROC against all other classes"""
    precision: Floats
    """[n] share of that class among the images in which the latent fires; 0: it never does"""
    by_class: Floats
    """[n classes] AUROC of each class; .5 where a class has no image, or only it has any"""


def histogram(bins: Counts, labels: Counts, count: int, classes: int) -> Counts:
    """Images by latent, bin and class, [n count classes]; `bins` [b n], `labels` [b]."""
    latents = bins.shape[1]
    cells = (np.arange(latents) * count + bins) * classes + labels[:, None]
    flat = np.bincount(cells.ravel(), minlength=latents * count * classes)
    return flat.reshape(latents, count, classes)


def selectivity(counts: Counts) -> Selectivity:
    """AUROC of each latent for each class, from histograms [n bins classes]."""
    total = counts.sum(axis=2, keepdims=True)
    below = np.cumsum(total - counts, axis=1) - (total - counts)
    wins = (counts * (below + 0.5 * (total - counts))).sum(axis=1)
    positive = counts.sum(axis=1)
    pairs = positive * (total.sum(axis=1) - positive)
    auroc = np.where(pairs > 0, wins / np.maximum(pairs, 1), 0.5)
    best = auroc.argmax(axis=1)
    rows = np.arange(len(best))
    fires = counts[:, 1:].sum(axis=1)
    precision = fires[rows, best] / np.maximum(fires.sum(axis=1), 1)
    return Selectivity(best, auroc[rows, best], precision, auroc)


def best_by_class(found: Selectivity, chosen: Counts) -> Floats:
    """Largest AUROC for each class among the latents `chosen`."""
    return found.by_class[chosen].max(axis=0)


def evenly(numbers: Counts, count: int) -> Counts:
    """At most `count` of `numbers`, evenly spread."""
    if len(numbers) <= count:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, count).round().astype(np.int64)]
