"""k-NN: which class the nearest neighbours in frozen features vote for.  Nothing is fitted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.evaluation.encoders import TOKENS
from mae.evaluation.features import Matrix
from mae.evaluation.results import Result, Subject, record, result_rows

K = 20
TEMPERATURE = 0.07
"""both as in DINO (Caron et al. 2021, section 4.1)"""

CELLS = 2**22
"""similarities looked at at a time: 16 MB, and some five times that to choose among them"""

Labels = npt.NDArray[np.int64]


def knn_accuracy(
    train: Matrix,
    labels: Labels,
    test: Matrix,
    test_labels: Labels,
    *,
    k: int = K,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of `test` [m d] whose class the neighbours in `train` [n d] find (`knn_classes`)."""
    found = knn_classes(train, labels, test, k=k, temperature=temperature)
    return int((found == test_labels).sum()) / len(test)


def knn_classes(
    train: Matrix,
    labels: Labels,
    test: Matrix,
    *,
    k: int = K,
    temperature: float = TEMPERATURE,
) -> Labels:
    """[m] the class of each of `test` [m d] that its neighbours in `train` [n d] vote for.

    The `k` vectors of the largest cosine similarity vote with exp(similarity / temperature), as
    in DINO; all of `train` where it has fewer.  Of neighbours equally near the earlier rows count,
    of classes equally voted for the smallest.
    """
    classes, voted = np.unique(labels, return_inverse=True)
    train, test = directions(train), directions(test)
    k = min(k, len(train))
    rows = max(1, CELLS // max(len(train), len(classes)))
    found = [np.empty(0, np.int64)]
    for start in range(0, len(test), rows):
        similar = test[start : start + rows] @ train.T
        nearest = _largest(similar, k)
        near = np.take_along_axis(similar, nearest, 1).astype(np.float64)
        # Beside the nearest: the same shares of the votes, and no overflow when T is small.
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
        votes = np.zeros((len(similar), len(classes)))
        np.add.at(votes, (np.arange(len(similar))[:, None], voted[nearest]), weight)
        found.append(classes[votes.argmax(1)])
    return np.concatenate(found)


def directions(vectors: Matrix) -> Matrix:
    """Rows [n d] of length 1; rows of zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(vectors.dtype).tiny)


def _largest(values: Matrix, k: int) -> npt.NDArray[np.int64]:
    """Columns [m k] of each row's `k` largest values, in no order; of equals the first ones."""
    if k == values.shape[1]:
        return np.tile(np.arange(k), (len(values), 1))
    least = np.partition(values, -k, axis=1)[:, [-k]]
    above = values > least
    equal = values == least
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (equal.cumsum(axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(values), k)


MEASURES = (
    "k-NN is a smoke signal, not a verdict: it reads features as they lie. Compare runs and the "
    "untrained encoder, not methods."
)
PROTOCOL = (
    "weighted k-NN of DINO (Caron et al. 2021, section 4.1) on frozen features of centred views: "
    "the k images of train with the largest cosine similarity vote with exp(similarity / T)"
)


def knn_report(
    subjects: Sequence[Subject], *, k: int = K, temperature: float = TEMPERATURE, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of every feature; `seed` is that of the bootstrap, nothing else is drawn."""
    results = [
        Result(
            encoder,
            feature,
            (
                knn_classes(
                    train.vectors[feature].astype(np.float32),
                    train.labels,
                    test.vectors[feature].astype(np.float32),
                    k=k,
                    temperature=temperature,
                )
                == test.labels
            )[None],
            {},
            {},
        )
        for encoder, train, test in subjects
        for feature in sorted(train.vectors.keys() - {TOKENS})
    ]
    return record(
        subjects[0],
        result_rows(results, subjects[0].test.labels, seed),
        measures=MEASURES,
        protocol=PROTOCOL,
        selection="none: k and T are fixed, and the test set is used once",
        k=k,
        temperature=temperature,
        seed=seed,
    )
