"""k-NN classification in frozen features, and the report of `mae knn`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.evaluation.encoders import TOKENS
from mae.evaluation.features import Matrix
from mae.evaluation.results import Result, Subject, record, result_rows

K = 20
TEMPERATURE = 0.07
"""number of neighbours and temperature of DINO (Caron et al. 2021, section 4.1)"""

CELLS = 2**22
"""similarities held at a time: 16 MB, and about five times that to select among them"""

MEASURES = (
    "k-NN is a quick indicator, not a result: it uses the features unscaled. Compare runs and the "
    "untrained encoder, not methods."
)
PROTOCOL = (
    "weighted k-NN of DINO (Caron et al. 2021, section 4.1) on frozen features of centred views: "
    "the k images of train with the largest cosine similarity vote with exp(similarity / T)"
)

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
    """Accuracy of `knn_classes` for `test` [m d], with neighbours in `train` [n d]."""
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
    """Classes [m] of `test` [m d] by a weighted vote of the nearest rows of `train` [n d].

    The `k` rows with the largest cosine similarity vote with weight exp(similarity / temperature),
    as in DINO; all of `train` where it has fewer.  Ties: earlier rows, and the smallest class.
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
        # Relative to the nearest: the same shares of the votes, without overflow for a small T.
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
        votes = np.zeros((len(similar), len(classes)))
        np.add.at(votes, (np.arange(len(similar))[:, None], voted[nearest]), weight)
        found.append(classes[votes.argmax(1)])
    return np.concatenate(found)


def directions(vectors: Matrix) -> Matrix:
    """L2-normalise rows [n d]; rows of zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(vectors.dtype).tiny)


def _largest(values: Matrix, k: int) -> npt.NDArray[np.int64]:
    """Columns [m k] of each row's `k` largest values, unordered; ties: the first columns."""
    if k == values.shape[1]:
        return np.tile(np.arange(k), (len(values), 1))
    least = np.partition(values, -k, axis=1)[:, [-k]]
    above = values > least
    equal = values == least
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (equal.cumsum(axis=1) <= room))
    return np.nonzero(chosen)[1].reshape(len(values), k)


def knn_report(
    subjects: Sequence[Subject], *, k: int = K, temperature: float = TEMPERATURE, seed: int = 0
) -> dict[str, Any]:
    """Report of `mae knn`: accuracy of every feature of every encoder.

    `seed` is that of the bootstrap; k-NN itself is deterministic.
    """
    images = len(subjects[0].train.labels)
    few = [f"k = {k}, but --train has {images:,} images: all of them vote"] if k > images else []
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
        k=min(k, images),
        temperature=temperature,
        notes=few,
        seed=seed,
    )
