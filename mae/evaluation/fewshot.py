"""The whole report of `mae fewshot`: what a linear probe makes of few labels."""

from collections.abc import Sequence
from typing import Any

from mae.evaluation.linear_probe import probe_results
from mae.evaluation.probe import FIXED, FOLDS
from mae.evaluation.protocol import Result, Subject, record, rows_of

MEASURES = (
    "what the frozen features are worth where labels are dear: a linear probe of n images per "
    "class, or of some per cent of the labels"
)
PROTOCOL = (
    "logistic regression (L-BFGS) on standardised frozen features of centred views; the labels "
    "are drawn anew for each split, the same ones for every feature"
)
SELECTION = (
    "C (penalty) chosen within the few labels: on random fifths of them, with fewer than five per "
    f"class in up to {FOLDS} folds, with one per class not at all (C = {FIXED:g}); the test set is "
    "used once per split"
)


def fewshot_report(
    subjects: Sequence[Subject],
    *,
    shots: Sequence[int] = (),
    percents: Sequence[float] = (),
    splits: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of every feature with so many labels per class, and so many per cent of all.

    Raises UserError where a class has fewer samples than `shots` wants.
    """
    budgets: list[dict[str, Any]] = [{"per_class": count} for count in shots]
    budgets += [{"percent": percent} for percent in percents]
    results: list[Result] = probe_results(subjects, budgets, splits, seed)
    return record(
        subjects[0],
        rows_of(results, subjects[0].test.labels, seed),
        measures=MEASURES,
        protocol=PROTOCOL,
        selection=SELECTION,
        splits=splits,
        seed=seed,
    )
