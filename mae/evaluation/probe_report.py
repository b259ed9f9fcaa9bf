"""Reports of `mae probe` and `mae fewshot`: linear probes of every feature and label budget."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mae.base.progress import ProgressLine
from mae.evaluation.encoders import TOKENS
from mae.evaluation.probe import (
    FEW,
    FIXED,
    FOLDS,
    Labels,
    draw_samples,
    number_of_probes,
    repeated_probe,
)
from mae.evaluation.results import Result, Subject, record, result_rows

MEASURES = (
    "linear separability of the classes in the frozen features, which is a lower bound "
    "of their quality"
)
PROTOCOL = "logistic regression (L-BFGS) on standardised frozen features of centred views"
SELECTION = (
    f"C (penalty) chosen on a random tenth of train, on several fifths below {FEW:,} labels; then "
    "fitted to all of train; the test set is used once per split"
)

FEWSHOT_MEASURES = (
    "quality of the frozen features with few labels: a linear probe of n images per "
    "class, or of some per cent of the labels"
)
FEWSHOT_PROTOCOL = (
    "logistic regression (L-BFGS) on standardised frozen features of centred views; the labels "
    "are drawn anew for each split, the same ones for every feature"
)
FEWSHOT_SELECTION = (
    "C (penalty) chosen within the few labels: on random fifths of them, with fewer than five per "
    f"class in up to {FOLDS} folds, with one per class not at all (C = {FIXED:g}); the test set is "
    "used once per split"
)


def probe_report(
    subjects: Sequence[Subject],
    *,
    budgets: tuple[int | None, ...] = (None,),
    splits: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Report of `mae probe`: accuracy of every feature at every label budget.

    `budgets`: training images per class; None: all.  Raises UserError where a class has fewer
    images than a budget.
    """
    per_class = [{"per_class": budget} for budget in budgets]
    results = probe_results(subjects, per_class, splits, seed)
    rows = result_rows(results, subjects[0].test.labels, seed)
    return record(
        subjects[0],
        rows,
        measures=MEASURES,
        protocol=PROTOCOL,
        selection=SELECTION,
        splits=splits,
        seed=seed,
    )


def probe_results(
    subjects: Sequence[Subject], budgets: Sequence[dict[str, Any]], splits: int, seed: int
) -> list[Result]:
    """Probe every feature of every subject at every budget (`per_class` or `percent`)."""
    results = []
    show = _Fits(subjects, budgets, splits)
    with show.line:
        for encoder, train, test in subjects:
            for feature in sorted(train.vectors.keys() - {TOKENS}):
                fitted = train.vectors[feature].astype(np.float32)
                tested = test.vectors[feature].astype(np.float32)
                for budget in budgets:
                    summary = repeated_probe(
                        fitted,
                        train.labels,
                        tested,
                        test.labels,
                        splits=splits,
                        seed=seed,
                        count=show.count,
                        **budget,
                    )
                    right = np.stack([score.right for score in summary.scores])
                    columns = ("at_edge", "iterations", "converged", "unfinished")
                    fits = {key: [getattr(s, key) for s in summary.scores] for key in columns}
                    chosen: dict[str, Any] = {
                        "strengths": [score.strength for score in summary.scores],
                        **fits,
                    }
                    chosen["labels"] = len(train.labels)
                    if any(budget.values()):
                        chosen["labels"] = len(draw_samples(train.labels, seed, **budget))
                    results.append(Result(encoder, feature, right, budget, chosen))
    return results


class _Fits:
    """Progress of `probe_results`, probe by probe."""

    def __init__(
        self, subjects: Sequence[Subject], budgets: Sequence[dict[str, Any]], splits: int
    ) -> None:
        self.line, self.done = ProgressLine("fitting probes", "probes"), 0
        self.total = sum(
            number_of_probes(len(train.labels), splits, everything=not any(budget.values()))
            for _, train, _ in subjects
            for _ in train.vectors.keys() - {TOKENS}
            for budget in budgets
        )
        self.line(0, self.total)

    def count(self) -> None:
        """Count one probe."""
        self.done += 1
        self.line(self.done, self.total)


def fewshot_report(
    subjects: Sequence[Subject],
    *,
    shots: Sequence[int] = (),
    percents: Sequence[float] = (),
    splits: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Report of `mae fewshot`: accuracy of every feature with few labels.

    `shots`: training images per class; `percents`: per cent of the training images.  Raises
    UserError where a class has fewer images than one of `shots`.
    """
    labels = subjects[0].train.labels
    percents, repeated = distinct_percents(labels, shots, percents)
    budgets: list[dict[str, Any]] = [{"per_class": count} for count in shots]
    budgets += [{"percent": percent} for percent in percents]
    results: list[Result] = probe_results(subjects, budgets, splits, seed)
    return record(
        subjects[0],
        result_rows(results, subjects[0].test.labels, seed),
        notes=[*repeated, *rounding_notes(labels, percents)],
        measures=FEWSHOT_MEASURES,
        protocol=FEWSHOT_PROTOCOL,
        selection=FEWSHOT_SELECTION,
        splits=splits,
        seed=seed,
    )


def distinct_percents(
    labels: Labels, shots: Sequence[int], percents: Sequence[float]
) -> tuple[list[float], list[str]]:
    """Those of `percents` that draw other labels than `shots` do, and notes on the others."""
    known = {draw_samples(labels, 0, count).tobytes(): count for count in shots}
    kept, notes = [], []
    for percent in percents:
        drawn = draw_samples(labels, 0, percent=percent).tobytes()
        if drawn in known:
            notes.append(
                f"{percent:g} % of the labels is {known[drawn]:,} per class here: see there"
            )
        else:
            kept.append(percent)
    return kept, notes


def rounding_notes(labels: Labels, percents: Sequence[float]) -> Iterator[str]:
    """Notes on `percents` that are far from the share of `labels` used: whole ones of each class.

    Far: by more than a tenth.
    """
    for percent in percents:
        count = len(draw_samples(labels, 0, percent=percent))
        share = 100 * count / len(labels)
        if abs(share - percent) > percent / 10:
            yield (
                f"{percent:g} % is {count:,} of {len(labels):,} labels here, {share:.2g} %: whole "
                "labels of each class, at least one"
            )
