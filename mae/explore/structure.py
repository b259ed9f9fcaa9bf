"""Structure of embedded images: neighbours, clusters, trustworthiness of their map."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits

from mae.base.progress import Progress, no_progress
from mae.similarity.quality import K, agreements, at_unit_length, sampled

NEIGHBOURS = 10
"""number of neighbours of an image on the page"""
CELLS = 2**22
"""similarities held at a time: 16 MB"""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Neighbours(NamedTuple):
    """Nearest other images of each image, nearest first."""

    ids: Integers
    """rows [n k]; -1 where there are fewer"""
    distances: Floats
    """[n k]"""


class Trust(NamedTuple):
    """Trustworthiness of a map, and of the plain map by principal components."""

    k: int
    map: float
    pca: float
    images: int
    """number of images that were compared with each other"""


def directions(vectors: Floats) -> Floats:
    """L2-normalise rows [n d]; rows of zeros stay zeros."""
    # In single precision the square of 1e20 is infinite.
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64, casting="safe")
    length = np.sqrt(squares).astype(np.float32)[:, None]
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)


def nearest_neighbours(unit: Floats, progress: Progress, k: int = NEIGHBOURS) -> Neighbours:
    """The k rows with the smallest cosine distance of each row of unit vectors [n d], exactly.

    `progress` is called with rows done and all.
    """
    n = len(unit)
    k = min(k, n - 1)
    ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    rows = max(1, CELLS // n)
    for start in range(0, n if k else 0, rows):
        similar = unit[start : start + rows] @ unit.T
        here = np.arange(len(similar))
        similar[here, start + here] = -np.inf
        near = np.sort(
            np.argpartition(similar, n - k - 1, axis=1)[:, n - k :], axis=1
        )  # ties: earlier rows first
        values = np.take_along_axis(similar, near, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        ids[start : start + rows] = np.take_along_axis(near, order, 1)
        distances[start : start + rows] = 1 - np.take_along_axis(values, order, 1)
        progress(min(start + rows, n), n)
    return Neighbours(ids, distances.clip(min=0))


def distances_of(unit: Floats, ids: Integers) -> Floats:
    """Cosine distances [n k] of rows of unit vectors [n d] to `ids` [n k]; NaN for ids of -1."""
    found = np.full(ids.shape, np.nan, np.float32)
    for place in range(ids.shape[1]):
        (rows,) = np.nonzero(ids[:, place] >= 0)
        step = max(1, CELLS // unit.shape[1])
        for start in range(0, len(rows), step):
            here = rows[start : start + step]
            similar = np.einsum("nd,nd->n", unit[here], unit[ids[here, place]])
            found[here, place] = (1 - similar).clip(min=0)
    return found


def k_means(points: Floats, count: int) -> Integers:
    """Cluster [n] of each point [n d] by k-means on mini-batches, 0 the largest cluster.

    `count` is the maximum number of clusters.  The same points give the same clusters: the seed
    is fixed, and one thread computes them.
    """
    count = _distinct(points, count)
    with threadpool_limits(1):
        found = MiniBatchKMeans(count, random_state=0, n_init=3).fit_predict(points)
    _, found, sizes = np.unique(found, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    return rank[found]


def _distinct(points: Floats, most: int) -> int:
    """Number of different rows, counted up to `most`."""
    found: set[bytes] = set()
    for row in points:
        found.add(row.tobytes())
        if len(found) == most:
            break
    return len(found)


def trust(unit: Floats, places: Floats, progress: Progress = no_progress) -> Trust | None:
    """Trustworthiness of a map [n 2] of unit vectors [n d], beside that of their first two PCs.

    Of the same rows, in the same way, as `mae embed` measures it.  None for as few images as twice
    the neighbours that are compared.
    """
    if len(unit) <= 2 * K or unit.shape[1] < 2:
        return None
    chosen = sampled(len(unit))
    maps = {"map": places[chosen], "pca": principal_components(unit)[chosen]}
    found = agreements(at_unit_length(unit[chosen]), maps, progress=progress)
    return Trust(K, found["map"].trustworthiness, found["pca"].trustworthiness, len(chosen))


def principal_components(vectors: Floats, count: int = 2) -> Floats:
    """The `count` first principal components [n count] of vectors [n d]."""
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, : -count - 1 : -1]
