"""Quality of a reduction to fewer dimensions: trustworthiness and neighbour recall."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.hashing import Stream, fold
from mae.base.progress import Progress, no_progress
from mae.data.labels import NO_LABEL

K = 10
"""neighbours that are compared"""
MOST = 5000
"""maximum number of images that are compared"""
BLOCK = 256
"""rows of distances at a time"""


class Agreement(NamedTuple):
    """Agreement of neighbours in a reduced space with those in the original one."""

    trustworthiness: float
    """1: the k neighbours in the reduced space are as near in the original one; about .5: random
    (Venna and Kaski 2001; van der Maaten et al. 2009, section 5)"""
    recall: float
    """share of the k nearest in the original space that are among the k nearest in the reduced"""
    same_class: float | None
    """share of the k nearest in the reduced space that are of the same class; None: no labels"""


def sampled(count: int, seed: int = 0, most: int = MOST) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` of `count` rows, ascending; those that `seed` draws."""
    if count <= most:
        return np.arange(count)
    words = fold(seed, Stream.STATISTICS, np.arange(count))
    return np.sort(np.argsort(words, kind="stable")[:most])


def agreements(
    original: npt.NDArray[np.floating],
    reduced: Mapping[str, npt.NDArray[np.floating]],
    labels: npt.NDArray[np.int64] | None = None,
    k: int = K,
    progress: Progress = no_progress,
) -> dict[str, Agreement]:
    """Agreement of each of the `reduced` vectors [n *] with the `original` ones [n d].

    Distances are Euclidean; pass vectors at unit length for cosines.  `k` is at most (n - 1) / 2.
    All pairs of the n rows are compared.  `labels` [n] of -1 do not count.
    `progress` is called with rows done and all.
    """
    count = len(original)
    k = max(1, min(k, (count - 1) // 2))
    known = _doubles(original)
    others = {name: _doubles(one) for name, one in reduced.items()}
    penalty, found = dict.fromkeys(reduced, 0.0), dict.fromkeys(reduced, 0)
    same = dict.fromkeys(reduced, 0)
    is_labelled = np.zeros(count, bool) if labels is None else labels != NO_LABEL
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        distance = _distances(known, rows)
        order = np.argsort(distance, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(1, count + 1)[None], axis=1)
        for name, one in others.items():
            near = _nearest(_distances(one, rows), k)
            ranks = np.take_along_axis(rank, near, axis=1)
            penalty[name] += float(np.maximum(ranks - k, 0).sum())
            found[name] += int((ranks <= k).sum())
            if labels is not None:
                equal = labels[near] == labels[rows][:, None]
                same[name] += int(equal[is_labelled[rows]].sum())
        progress(int(rows[-1]) + 1, count)
    worst = count * k * (2 * count - 3 * k - 1) / 2
    labelled = int(is_labelled.sum())
    return {
        name: Agreement(
            1 - penalty[name] / worst if worst else 1.0,
            found[name] / (count * k),
            same[name] / (labelled * k) if labelled else None,
        )
        for name in reduced
    }


def at_unit_length(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Vectors [n d] divided by their lengths; rows of zeros stay zeros."""
    rows = _doubles(vectors)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, np.finfo(np.float32).tiny)


def _doubles(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors, np.float64)


def _distances(vectors: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray:
    """Squared distances [m n] of `rows` to all; of a row to itself infinite."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    squared = lengths[rows][:, None] + lengths - 2 * (vectors[rows] @ vectors.T)
    squared[np.arange(len(rows)), rows] = np.inf
    return squared


def _nearest(distance: npt.NDArray, k: int) -> npt.NDArray[np.int64]:
    near = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return np.asarray(near, np.int64)
