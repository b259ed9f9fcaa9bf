"""Linear probe: how well classes can be told apart in frozen features.

Multinomial logistic regression on standardised features.  The regularisation is chosen on
slices of the training set; the model is then fitted to all of it and meets the test set once.
"""

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from threadpoolctl import threadpool_limits

from mae.errors import UserError
from mae.evaluation.features import Matrix
from mae.hashing import fold

STRENGTHS = tuple(10.0**power for power in range(-4, 3))
"""candidates of scikit-learn's C, the inverse of the penalty on the squared weights"""

FEW = 10_000
"""from this many labels on, one slice of a tenth chooses; below, several of a fifth do"""

MOST_SLICES = 20
"""for the fewest labels: with five slices of 100 labels the choice is mostly luck"""

Labels = npt.NDArray[np.int64]


class Score(NamedTuple):
    """One probe: accuracy on the test set, and the C that the training set chose."""

    accuracy: float
    strength: float


class Summary(NamedTuple):
    """Several probes with different training subsets or selection slices."""

    mean: float
    deviation: float
    """sample standard deviation over the splits; 0 for a single one"""
    scores: tuple[Score, ...]


def probe(train: Matrix, labels: Labels, test: Matrix, test_labels: Labels, seed: int) -> Score:
    """Choose C on slices of `train`, refit on all of `train`, test once.

    Raises UserError where a class has too few samples to be split.
    """
    count = min(MOST_SLICES, max(1, FEW // len(labels)))
    share = 0.2 if count > 1 else 0.1
    slices = StratifiedShuffleSplit(count, test_size=share, random_state=seed)
    rows = np.zeros(len(labels))
    try:
        splits = list(slices.split(rows, labels))
    except ValueError as error:
        raise UserError(f"probe: the training labels cannot be split: {error}") from None
    # With many labels the penalty hardly matters, and an almost free fit hardly ends.
    strengths, iterations = (STRENGTHS, 500) if len(labels) < FEW else (STRENGTHS[:5], 200)
    accuracy = np.zeros(len(strengths))
    for fitted, held_out in splits:
        scaled, scaled_held_out = standardise(train[fitted], train[held_out])
        guesses = path(scaled, labels[fitted], scaled_held_out, strengths, iterations)
        for i, guess in enumerate(guesses):
            accuracy[i] += (guess == labels[held_out]).mean() / len(splits)
    best = strengths[int(accuracy.argmax())]  # the strongest penalty among equals
    scaled, scaled_test = standardise(train, test)
    model = LogisticRegression(C=best, max_iter=iterations).fit(scaled, labels)
    return Score(float((model.predict(scaled_test) == test_labels).mean()), best)


def path(
    train: Matrix, labels: Labels, test: Matrix, strengths: tuple[float, ...], iterations: int
) -> list[Labels]:
    """Predictions for each of `strengths`, each fit started from the one before."""
    model = LogisticRegression(max_iter=iterations, warm_start=True)
    return [model.set_params(C=c).fit(train, labels).predict(test) for c in strengths]


def standardise(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Mean 0 and deviation 1 over `train`; dimensions that never change are left at 0."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1)
    return (train - mean) / scale, (test - mean) / scale


def repeated_probe(
    train: Matrix,
    labels: Labels,
    test: Matrix,
    test_labels: Labels,
    *,
    per_class: int | None = None,
    splits: int = 5,
    seed: int = 0,
) -> Summary:
    """`splits` probes, each on its own `per_class` training samples of every class (None: all).

    One probe where all of many labels are used: more would tell nothing.  The same seed draws
    the same samples whatever the features are, so that features compare pairwise.  Raises
    UserError where a class has fewer than `per_class` samples.
    """
    if per_class is None and len(labels) >= FEW:
        splits = 1
    scores = []
    # L-BFGS on small matrices is 15 times slower on two threads than on one.
    with threadpool_limits(1 if train.size < 10**6 else None), warnings.catch_warnings():
        # A fit that stops early is judged by its accuracy like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for split in range(splits):
            rows = np.arange(len(labels))
            if per_class is not None:
                rows = draw_per_class(labels, per_class, seed + split)
            scores.append(probe(train[rows], labels[rows], test, test_labels, seed + split))
    values = np.array([score.accuracy for score in scores])
    deviation = float(values.std(ddof=1)) if splits > 1 else 0.0
    return Summary(float(values.mean()), deviation, tuple(scores))


def draw_per_class(labels: Labels, per_class: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows of `per_class` random samples of every class."""
    order = np.argsort(fold(seed, np.arange(len(labels))), kind="stable")
    rows = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        if len(of_class) < per_class:
            raise UserError(f"probe: class {label} has {len(of_class)} samples, not {per_class}")
        rows.append(of_class[:per_class])
    return np.concatenate(rows)
