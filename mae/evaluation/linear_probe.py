"""The whole report of `mae probe`: a linear probe of every feature at every label budget."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mae.evaluation.encoders import TOKENS
from mae.evaluation.probe import FEW, repeated_probe
from mae.evaluation.protocol import Result, Subject, record, rows_of

MEASURES = (
    "how well classes can be told apart by planes in the frozen features, which is a lower bound "
    "of what they are worth"
)
PROTOCOL = "logistic regression (L-BFGS) on standardised frozen features of centred views"
SELECTION = (
    f"C (penalty) chosen on a random tenth of train, on several fifths below {FEW:,} labels; then "
    "fitted to all of train; the test set is used once per split"
)


def probe_report(
    subjects: Sequence[Subject],
    *,
    budgets: tuple[int | None, ...] = (None,),
    splits: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of every feature at every label budget (images per class; None: all).

    Raises UserError where a class has fewer samples than a budget wants.
    """
    given = [{"per_class": budget} for budget in budgets]
    rows = rows_of(probe_results(subjects, given, splits, seed), subjects[0].test.labels, seed)
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
    """Probes of every feature of every subject, each with its `per_class` or `percent` labels."""
    results = []
    for encoder, train, test in subjects:
        for feature in sorted(train.vectors.keys() - {TOKENS}):
            fitted = train.vectors[feature].astype(np.float32)
            tested = test.vectors[feature].astype(np.float32)
            for budget in budgets:
                summary = repeated_probe(
                    fitted, train.labels, tested, test.labels, splits=splits, seed=seed, **budget
                )
                right = np.stack([score.right for score in summary.scores])
                columns = ("at_edge", "iterations", "converged", "unfinished")
                fits = {key: [getattr(s, key) for s in summary.scores] for key in columns}
                chosen = {"strengths": [score.strength for score in summary.scores], **fits}
                results.append(Result(encoder, feature, right, budget, chosen))
    return results
