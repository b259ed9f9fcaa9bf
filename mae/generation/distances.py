"""Distances between sets of feature vectors: Fréchet, nearest neighbours.  Pure functions."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.evaluation.confidence import Interval, auroc
from mae.evaluation.nearest import AMONG, QUERIES

FeatureRows = npt.NDArray[np.floating]

RESAMPLES = 500


def frechet_distance(first: FeatureRows, second: FeatureRows) -> float:
    """Squared Fréchet distance of Gaussians fitted to two sets of vectors, [n d] and [m d].

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), by Dowson and Landau 1982.  In features of Inception-v3
    it is called FID (Heusel et al. 2017, equation 6): these are other features, and values of two
    encoders are not comparable.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    means = first.mean(0) - second.mean(0)
    one, other = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (first, second))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # The eigenvalues of Σ₁Σ₂ are those of the symmetric Σ₁^½ Σ₂ Σ₁^½.
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(max(0.0, means @ means + np.trace(one) + np.trace(other) - 2 * cross))


def total_variance(vectors: FeatureRows) -> float:
    """Sum of the variances of all features: the unit of relative distances."""
    return float(vectors.astype(np.float64).var(axis=0, ddof=1).sum())


class TwoSample(NamedTuple):
    """Leave-one-out accuracy of a 1-NN classifier of real against other images.

    Lopez-Paz and Oquab 2017 (arXiv:1610.06545); 1-NN as advised by Xu et al. 2018
    (arXiv:1806.07755).  .5: the classifier cannot separate them; below: copies of real images.
    """

    accuracy: float
    real: float
    """share of the real images whose nearest neighbour is real"""
    other: float
    """share of the others whose nearest neighbour is another of them: near 1 where they are unlike
    real images, or alike"""


def two_sample(real: FeatureRows, other: FeatureRows) -> TwoSample:
    """1-NN accuracy for two sets of vectors, which should be equally large."""
    from sklearn.neighbors import NearestNeighbors  # takes a second

    both = np.concatenate([real, other]).astype(np.float64)
    is_real = np.arange(len(both)) < len(real)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(both)
    near = np.asarray(search.kneighbors(return_distance=False))[:, 0]
    right = is_real[near] == is_real
    return TwoSample(
        float(right.mean()), float(right[is_real].mean()), float(right[~is_real].mean())
    )


class Nearest(NamedTuple):
    """Nearest training images of each vector."""

    rows: npt.NDArray[np.int64]
    """[m k], the nearest first"""
    distances: npt.NDArray[np.float64]
    """[m k]"""


def nearest_rows(vectors: FeatureRows, among: FeatureRows, k: int = 1) -> Nearest:
    """The `k` rows of `among` [n d] nearest to each of `vectors` [m d]; all if fewer.

    `among` is read in blocks of AMONG rows, so it may be mapped from a file.  Ties: earlier rows
    come first.
    """
    from sklearn.neighbors import NearestNeighbors

    wanted = vectors.astype(np.float32)
    rows, distances = np.empty((len(wanted), 0), np.int64), np.empty((len(wanted), 0))
    for start in range(0, len(among), AMONG):
        block = among[start : start + AMONG]
        search = NearestNeighbors(n_neighbors=min(k, len(block)), algorithm="brute")
        search.fit(block.astype(np.float32))
        found = np.asarray(search.kneighbors(wanted, return_distance=False))
        # Again, exactly: the search subtracts large numbers, which hides that a distance is 0.
        exact = _distances(vectors, block, found)
        rows, distances = np.hstack([rows, found + start]), np.hstack([distances, exact])
        order = np.lexsort((rows, distances))[:, :k]
        rows = np.take_along_axis(rows, order, 1)
        distances = np.take_along_axis(distances, order, 1)
    return Nearest(rows, distances)


def _distances(
    vectors: FeatureRows, among: FeatureRows, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Distance of each vector [m d] to each of its `rows` [m k] of `among`, in float64."""
    found = [np.empty((0, rows.shape[1]))]
    for start in range(0, len(vectors), QUERIES):
        one, near = vectors[start : start + QUERIES], among[rows[start : start + QUERIES]]
        gaps = near.astype(np.float64) - one.astype(np.float64)[:, None]
        found.append(np.sqrt((gaps**2).sum(-1)))
    return np.concatenate(found)


class Copying(NamedTuple):
    """Distances to the nearest training image: of generated images against real held-out ones."""

    ratio: float | None
    """median distance of generated images, divided by that of held-out ones; None: that is 0"""
    nearer: float
    """probability that a generated image is nearer to the training images than a held-out one
    (Meehan et al. 2020, arXiv:2004.05675, the statistic U): .5 is ideal, 1 copies"""
    interval: Interval
    """95 %, bootstrap over both"""
    equal: int
    """generated images at a distance of 0 from a training image"""


def copying(generated: FeatureRows, held_out: FeatureRows, seed: int) -> Copying:
    """Compare the distances [m] of generated images with those [n] of held-out images."""
    chance = np.random.default_rng(seed)
    drawn = [
        share_nearer(
            chance.choice(generated, len(generated)), chance.choice(held_out, len(held_out))
        )
        for _ in range(RESAMPLES)
    ]
    nearer = share_nearer(generated, held_out)
    low, high = np.quantile(drawn, [0.025, 0.975])
    middle = float(np.median(held_out))
    return Copying(
        float(np.median(generated)) / middle if middle else None,
        nearer,
        Interval(min(nearer, float(low)), max(nearer, float(high))),
        int((generated == 0).sum()),
    )


def share_nearer(generated: FeatureRows, held_out: FeatureRows) -> float:
    """Share of pairs in which the generated image is nearer; ties count half."""
    return auroc(larger=held_out, smaller=generated)
