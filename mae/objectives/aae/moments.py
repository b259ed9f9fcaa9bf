"""Moments of latents over held-out images, from sums over batches: are they those of N(0, 1)?"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BINS = 1000
"""equally likely intervals of N(0, 1), in which latents are counted"""

EDGES = np.array([NormalDist().inv_cdf(place / BINS) for place in range(1, BINS)])
"""upper ends of the intervals but the last"""


class Moments(NamedTuple):
    """Moments of n latents over images."""

    mean: Array
    """[n]"""
    std: Array
    """[n]"""
    ks: Array
    """[n] Kolmogorov-Smirnov distance from N(0, 1), too small by up to 1 / BINS"""
    correlation: float
    """largest correlation of two latents, without its sign; 0 for a single latent"""


def sums_of(latents: Array) -> Array:
    """Sums, products and counts per interval of latents [b n], in one vector."""
    places = np.searchsorted(EDGES, latents)
    counts = np.stack([np.bincount(place, minlength=BINS) for place in places.T])
    parts = [latents.sum(axis=0), latents.T @ latents, counts]
    return np.concatenate([part.ravel() for part in parts])


def moments(sums: Array, images: int, number: int) -> Moments:
    """Moments from the totals of `sums_of` over `images`; `number` of latents."""
    mean, products, counts = np.split(sums / images, [number, number + number**2])
    covariance = products.reshape(number, number) - np.outer(mean, mean)
    std = np.sqrt(np.diag(covariance).clip(min=0))
    shares = counts.reshape(number, BINS).cumsum(axis=1)
    ks = np.abs(shares - np.arange(1, BINS + 1) / BINS).max(axis=1)
    scale = np.maximum(np.outer(std, std), np.finfo(np.float64).tiny)
    correlations = np.abs(covariance / scale)[~np.eye(number, dtype=bool)]
    return Moments(mean, std, ks, float(correlations.max(initial=0.0)))
