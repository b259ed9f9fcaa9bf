"""Linear probe: how well classes can be told apart in frozen features.

Multinomial logistic regression on standardised features.  The regularisation is chosen on
slices of the training set; the model is then fitted to all of it and meets the test set once.
"""

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mae.base.errors import UserError
from mae.base.hashing import fold
from mae.evaluation.features import Matrix

STRENGTHS = tuple(10.0**power for power in range(-4, 3))
"""candidates of scikit-learn's C, the inverse of the penalty on the squared weights"""

FEW = 10_000
"""from this many labels on, one slice of a tenth chooses; below, several of a fifth do"""

MOST_SLICES = 20
"""for the fewest labels: with five slices of 100 labels the choice is mostly luck"""

FOLDS = 5
"""at most, where a fifth of the labels would not hold every class"""

FIXED = 0.01
"""C where no class has two labels, and there is nothing to choose on: a strong penalty, that is,
nearly the direction from class mean to class mean"""

Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]


class Score(NamedTuple):
    """One probe: accuracy on the test set, and the C that the training set chose."""

    accuracy: float
    strength: float
    right: npt.NDArray[np.bool_]
    """[m] of the test images"""
    at_edge: bool
    """that C is the smallest or largest candidate, and better than all in between: one beyond may
    be better still"""
    iterations: int
    """of L-BFGS in the fit to all of train"""
    converged: bool
    """that fit ended before the limit"""
    unfinished: int
    """fits to slices that did not"""


class Fit(NamedTuple):
    """What a fit says of held-out images."""

    guesses: Labels
    iterations: int


class Summary(NamedTuple):
    """Several probes with different training subsets or selection slices."""

    mean: float
    deviation: float
    """sample standard deviation over the splits; 0 for a single one"""
    scores: tuple[Score, ...]


def probe(train: Matrix, labels: Labels, test: Matrix, test_labels: Labels, seed: int) -> Score:
    """Choose C on slices of `train`, refit on all of `train`, test once."""
    # With many labels the penalty hardly matters, and an almost free fit hardly ends.
    strengths, iterations = (STRENGTHS, 500) if len(labels) < FEW else (STRENGTHS[:5], 200)
    slices = selection_slices(labels, seed)
    accuracy, unfinished = np.zeros(len(strengths)), 0
    for fitted, held_out in slices:
        scaled, scaled_held_out = standardise(train[fitted], train[held_out])
        fits = path(scaled, labels[fitted], scaled_held_out, strengths, iterations)
        accuracy += [(fit.guesses == labels[held_out]).mean() / len(slices) for fit in fits]
        unfinished += sum(fit.iterations >= iterations for fit in fits)
    # The strongest penalty among equals.
    best = strengths[int(accuracy.argmax())] if slices else FIXED
    scaled, scaled_test = standardise(train, test)
    (fit,) = path(scaled, labels, scaled_test, (best,), iterations)
    right = fit.guesses == test_labels
    return Score(
        float(right.mean()),
        best,
        right,
        at_edge=is_edge(accuracy),
        iterations=fit.iterations,
        converged=fit.iterations < iterations,
        unfinished=unfinished,
    )


def is_edge(reached: npt.NDArray[np.float64]) -> bool:
    """The first or the last of `reached`, a number for each candidate, beats all in between."""
    return bool(max(reached[0], reached[-1]) > reached[1:-1].max())


def selection_slices(labels: Labels, seed: int) -> list[tuple[Rows, Rows]]:
    """(fitted, held-out) rows of `labels` to choose on: stratified, random, every class fitted.

    Several slices of a fifth, or from FEW labels on one of a tenth; folds where these would be too
    small to hold every class.  Samples that are alone in their class are always fitted; none are
    held out, and there are no slices, where all are.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    choosable = np.flatnonzero(counts[numbers] > 1)
    alone = np.flatnonzero(counts[numbers] == 1)
    classes = int((counts > 1).sum())
    if not classes:
        return []
    count = min(MOST_SLICES, max(1, FEW // len(labels)))
    share = 0.2 if count > 1 else 0.1
    if share * len(choosable) >= classes:
        rule = StratifiedShuffleSplit(count, test_size=share, random_state=seed)
    else:
        folds = min(FOLDS, int(counts[counts > 1].min()))
        rule = StratifiedKFold(folds, shuffle=True, random_state=seed)
    given = labels[choosable]
    return [
        (np.concatenate([choosable[fitted], alone]), choosable[held_out])
        for fitted, held_out in rule.split(np.zeros(len(given)), given)
    ]


def path(
    train: Matrix, labels: Labels, test: Matrix, strengths: tuple[float, ...], iterations: int
) -> list[Fit]:
    """Predictions for each of `strengths`, each fit started from the one before.

    A fit of `iterations` iterations was stopped, and may not have converged.
    """
    # Here, because it takes a second that every start of a run would pay for.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=iterations, warm_start=True)
    fits = (model.set_params(C=c).fit(train, labels) for c in strengths)
    # L-BFGS on small matrices is 15 times slower on two threads than on one.
    with threadpool_limits(1 if train.size < 10**6 else None), warnings.catch_warnings():
        # A fit that stops early is judged by its accuracy like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [Fit(fit.predict(test), int(np.max(fit.n_iter_))) for fit in fits]


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
    percent: float | None = None,
    splits: int = 5,
    seed: int = 0,
) -> Summary:
    """`splits` probes, each on its own `per_class` samples or `percent` of every class (None: all).

    One probe where all of many labels are used: more would tell nothing.  The same seed draws
    the same samples whatever the features are, so that features compare pairwise.  Raises
    UserError where a class has fewer than `per_class` samples.
    """
    everything = per_class is None and percent is None
    if everything and len(labels) >= FEW:
        splits = 1
    scores = []
    for split in range(splits):
        rows = np.arange(len(labels))
        if not everything:
            rows = draw(labels, seed + split, per_class, percent)
        scores.append(probe(train[rows], labels[rows], test, test_labels, seed + split))
    values = np.array([score.accuracy for score in scores])
    deviation = float(values.std(ddof=1)) if splits > 1 else 0.0
    return Summary(float(values.mean()), deviation, tuple(scores))


def draw(
    labels: Labels, seed: int, per_class: int | None = None, percent: float | None = None
) -> Rows:
    """Rows of `per_class` random samples of every class, or of `percent` of it, one at least."""
    order = np.argsort(fold(seed, np.arange(len(labels))), kind="stable")
    rows = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        count = per_class or max(1, round(len(of_class) * (percent or 0) / 100))
        if len(of_class) < count:
            raise UserError(f"--train: class {label} has {len(of_class)} samples, not {count}")
        rows.append(of_class[:count])
    return np.concatenate(rows)
