"""Linear probe: linear separability of classes in frozen features.

Multinomial logistic regression on standardised features.  The regularisation is chosen on
validation splits of the training set; the model is then fitted to all of it and
evaluated on the test set once.
"""

import warnings
from collections.abc import Callable
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
"""number of labels from which C is chosen on one split of a tenth; below, on several of a fifth"""

MOST_SPLITS = 20
"""maximum number of splits, used for the fewest labels: with five splits of 100 labels the choice
is mostly chance"""

FOLDS = 5
"""maximum number of folds, used where a fifth of the labels would not hold every class"""

FIXED = 0.01
"""C where no class has two labels, so that none can be held out: a strong penalty, which makes the
classifier nearly that of the nearest class mean"""

MOST_IN_SPAN, FEWER = 4000, 2
"""largest number of rows that are rotated into their span, and how many times as many columns they
must have"""

Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]


class Score(NamedTuple):
    """Result of one probe: test accuracy, and the C chosen on the training set."""

    accuracy: float
    strength: float
    """C"""
    right: npt.NDArray[np.bool_]
    """[m] whether each test image is classified correctly"""
    at_edge: bool
    """C is the smallest or largest candidate, and better than all in between: a value beyond may be
    better"""
    iterations: int
    """L-BFGS iterations of the fit to all of train"""
    converged: bool
    """True where that fit ended before the maximum number of iterations"""
    unfinished: int
    """number of fits to splits that did not converge"""


class Fit(NamedTuple):
    """Predictions of one fit for held-out images."""

    predicted: Labels
    """[m]"""
    iterations: int
    """L-BFGS iterations"""


class Summary(NamedTuple):
    """Results of several probes with different training subsets or validation splits."""

    mean: float
    deviation: float
    """sample standard deviation over the splits; 0 for a single one"""
    scores: tuple[Score, ...]


def probe(train: Matrix, labels: Labels, test: Matrix, test_labels: Labels, seed: int) -> Score:
    """Choose C on splits of `train`, refit on all of `train`, evaluate on `test` once."""
    # With many labels the penalty hardly matters, and a weakly penalised fit hardly converges.
    strengths, iterations = (STRENGTHS, 500) if len(labels) < FEW else (STRENGTHS[:5], 200)
    splits = validation_splits(labels, seed)
    accuracy, unfinished = np.zeros(len(strengths)), 0
    for fitted, held_out in splits:
        scaled, scaled_held_out = standardise(train[fitted], train[held_out])
        fits = regularisation_path(scaled, labels[fitted], scaled_held_out, strengths, iterations)
        accuracy += [(fit.predicted == labels[held_out]).mean() / len(splits) for fit in fits]
        unfinished += sum(fit.iterations >= iterations for fit in fits)
    # The strongest penalty among equals.
    best = strengths[int(accuracy.argmax())] if splits else FIXED
    scaled, scaled_test = standardise(train, test)
    (fit,) = regularisation_path(scaled, labels, scaled_test, (best,), iterations)
    right = fit.predicted == test_labels
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
    """Report whether the first or last score of the candidates exceeds all in between."""
    return bool(max(reached[0], reached[-1]) > reached[1:-1].max())


def validation_splits(labels: Labels, seed: int) -> list[tuple[Rows, Rows]]:
    """Random stratified splits: (fitted, held-out) rows of `labels`; every class is fitted.

    Several splits of a fifth; from FEW labels on, one of a tenth; folds where these would be too
    small to hold every class.  A class with a single sample is always fitted, never held out;
    without larger classes there are no splits.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    choosable = np.flatnonzero(counts[numbers] > 1)
    alone = np.flatnonzero(counts[numbers] == 1)
    classes = int((counts > 1).sum())
    if not classes:
        return []
    count = min(MOST_SPLITS, max(1, FEW // len(labels)))
    share = 0.2 if count > 1 else 0.1
    if share * len(choosable) >= classes:
        rule = StratifiedShuffleSplit(count, test_size=share, random_state=seed)
    else:
        folds = min(FOLDS, int(counts[counts > 1].min()))
        rule = StratifiedKFold(folds, shuffle=True, random_state=seed)
    candidates = labels[choosable]
    return [
        (np.concatenate([choosable[fitted], alone]), choosable[held_out])
        for fitted, held_out in rule.split(np.zeros(len(candidates)), candidates)
    ]


def regularisation_path(
    train: Matrix, labels: Labels, test: Matrix, strengths: tuple[float, ...], iterations: int
) -> list[Fit]:
    """Predictions for `test` with each C of `strengths`, each fit starting from the previous one.

    A fit with `iterations` iterations was stopped, and may not have converged.
    """
    # Imported here: it takes a second, which every start of a run would pay for.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train, test = in_span(train, test)
    model = LogisticRegression(max_iter=iterations, warm_start=True)
    fits = (model.set_params(C=c).fit(train, labels) for c in strengths)
    # L-BFGS on small matrices is 15 times slower on two threads than on one.
    with threadpool_limits(1 if train.size < 10**6 else None), warnings.catch_warnings():
        # A fit that stops early is compared by its accuracy like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [Fit(fit.predict(test), int(np.max(fit.n_iter_))) for fit in fits]


def in_span(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Both in an orthonormal basis of the rows of `train`, where these are far fewer than columns.

    A classifier with a quadratic penalty has its weights in that span, and both the penalty and
    L-BFGS are the same in any such basis: the fit is the same, on as many columns as rows.
    """
    count, columns = train.shape
    if count > MOST_IN_SPAN or FEWER * count > columns:
        return train, test
    rows = train.astype(np.float64)
    squares, vectors = np.linalg.eigh(rows @ rows.T)
    kept = squares > squares[-1] * 1e-10  # less is rounding, such as that of the mean
    lengths, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    basis = rows.T @ (vectors / lengths)
    kind = train.dtype
    return (vectors * lengths).astype(kind), (test.astype(np.float64) @ basis).astype(kind)


def standardise(train: Matrix, test: Matrix) -> tuple[Matrix, Matrix]:
    """Scale both to mean 0 and deviation 1 over `train`; constant dimensions become 0."""
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
    count: Callable[[], None] = lambda: None,
) -> Summary:
    """Run `splits` probes, each on `per_class` samples or `percent` of every class (None: all).

    A single probe where all of FEW or more labels are used: others would hardly differ.  `count` is
    called after each.  The same seed draws the same samples for all features, so that they compare
    pairwise.  Raises UserError where a class has fewer than `per_class` samples.
    """
    everything = per_class is None and percent is None
    scores = []
    for split in range(number_of_probes(len(labels), splits, everything=everything)):
        rows = np.arange(len(labels))
        if not everything:
            rows = draw_samples(labels, seed + split, per_class, percent)
        scores.append(probe(train[rows], labels[rows], test, test_labels, seed + split))
        count()
    values = np.array([score.accuracy for score in scores])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Summary(float(values.mean()), deviation, tuple(scores))


def number_of_probes(labels: int, splits: int, *, everything: bool) -> int:
    """Number of probes of `repeated_probe`; `everything`: on all labels."""
    return 1 if everything and labels >= FEW else splits


def draw_samples(
    labels: Labels, seed: int, per_class: int | None = None, percent: float | None = None
) -> Rows:
    """Rows of `per_class` random samples of every class, or of `percent` of it, at least one.

    Raises UserError where a class has fewer than `per_class` samples.
    """
    order = np.argsort(fold(seed, np.arange(len(labels))), kind="stable")
    rows = []
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        count = per_class or max(1, round(len(of_class) * (percent or 0) / 100))
        if len(of_class) < count:
            raise UserError(f"--train: class {label} has {len(of_class)} samples, not {count}")
        rows.append(of_class[:count])
    return np.concatenate(rows)
