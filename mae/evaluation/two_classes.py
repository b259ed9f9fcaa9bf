"""Evaluation of a classifier of two classes: AUROC, sensitivity and specificity."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mae.base.errors import UserError
from mae.data.class_names import quoted
from mae.data.normal_classes import NORMAL_NAMES
from mae.evaluation.confidence import auroc, auroc_interval, wilson
from mae.evaluation.predictions import Predictions

NEGATIVE_NAMES = (*NORMAL_NAMES, *"negative healthy benign control no none false absent".split())
"""names of classes that are the negative one of two"""
NEGATIVE_STARTS = ("no", "non", "not")
"""first words of such names, as in `no_finding`"""
SEED = 0
"""of the resamples"""


class Positive(NamedTuple):
    """Positive class of two, the one to be found."""

    number: int
    reason: str
    """why this one, in words"""


def positive_class(names: Sequence[str], chosen: str = "") -> Positive:
    """The `chosen` class of two; else the one beside a class with a negative name; else class 1.

    A number alone says nothing: classes are numbered by their names, `normal` after `abnormal`.
    Raises UserError where no class, or not one of two, can be the chosen one.
    """
    if chosen:
        if len(names) != 2:
            raise UserError(f"--positive: the classifier has {len(names):,} classes, not two")
        if chosen not in names:
            raise UserError(f"--positive: no class is called {quoted([chosen])}: {quoted(names)}")
        return Positive(list(names).index(chosen), "--positive")
    negative = [number for number, name in enumerate(names) if _is_negative(name)]
    if len(negative) == 1:
        return Positive(
            1 - negative[0], f"the other class is called {quoted([names[negative[0]]])}"
        )
    return Positive(1, "class 1, as no name tells; --positive NAME for the other")


def two_class_report(
    predictions: Predictions, names: Sequence[str], positive: Positive
) -> dict[str, Any]:
    """Sensitivity, specificity and AUROC, with intervals of 95 %.

    The first two are of the more probable class, that is at a probability of one half.  What
    needs images of a class that does not occur is None.
    """
    is_positive = predictions.labels == positive.number
    answered = predictions.predicted == positive.number
    report: dict[str, Any] = {"positive": names[positive.number], "reason": positive.reason}
    for key, of_class, right in (
        ("sensitivity", is_positive, answered),
        ("specificity", ~is_positive, ~answered),
    ):
        images, hits = int(of_class.sum()), int((right & of_class).sum())
        report[key] = hits / images if images else None
        report[f"{key}_interval"] = list(wilson(hits / images, images)) if images else None
        report[f"{key}_images"] = images
    report |= {"auroc": None, "auroc_interval": None}
    if len(predictions.margins) and is_positive.any() and not is_positive.all():
        scores = predictions.margins if positive.number == 1 else -predictions.margins
        larger, smaller = scores[is_positive], scores[~is_positive]
        report["auroc"] = auroc(larger, smaller)
        report["auroc_interval"] = list(
            auroc_interval(larger, smaller, np.random.default_rng(SEED))
        )
    return report


def two_class_lines(report: dict[str, Any]) -> list[str]:
    """Lines of the text table."""
    lines = [f"positive class   {quoted([report['positive']])} ({report['reason']})"]
    if report["auroc"] is not None:
        low, high = report["auroc_interval"]
        lines.append(f"AUROC             {report['auroc']:.3f}  ({low:.3f}–{high:.3f}, 95 %)")
    for key in ("sensitivity", "specificity"):
        if report[key] is not None:
            low, high = (f"{100 * bound:.1f}" for bound in report[f"{key}_interval"])
            lines.append(
                f"{key:17}{report[key]:6.1%}  ({low}–{high}, 95 %) of "
                f"{report[f'{key}_images']:,} images"
            )
    return lines


def _is_negative(name: str) -> bool:
    known = name.lower().replace("_", " ").replace("-", " ").strip()
    return known in NEGATIVE_NAMES or known.split(" ")[0] in NEGATIVE_STARTS
