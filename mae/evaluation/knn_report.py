"""The whole report of `mae knn`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mae.evaluation.encoders import TOKENS
from mae.evaluation.knn import TEMPERATURE, K, knn_classes
from mae.evaluation.protocol import Result, Subject, record, rows_of

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
        rows_of(results, subjects[0].test.labels, seed),
        measures=MEASURES,
        protocol=PROTOCOL,
        selection="none: k and T are fixed, and the test set is used once",
        k=k,
        temperature=temperature,
        seed=seed,
    )
