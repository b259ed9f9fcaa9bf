"""Evaluation of a classifier on held-out images: accuracy overall and per class, confusion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mae.base.printable import printable
from mae.data.class_names import quoted
from mae.evaluation.confidence import always_commonest, balanced_accuracy, wilson
from mae.evaluation.predictions import Predictions
from mae.evaluation.results import TOP
from mae.evaluation.two_classes import (
    Positive,
    positive_class,
    two_class_lines,
    two_class_report,
)

MOST_CLASSES = 100
"""largest number of classes for which the report holds the whole confusion matrix; with more it
holds only the largest errors"""

MOST_ERRORS = 50
"""largest number of confused pairs of classes in a report"""


def summary(predictions: Predictions) -> dict[str, Any]:
    """Accuracies over all images, that of always answering the commonest class, and the loss."""
    right = predictions.predicted == predictions.labels
    commonest = always_commonest(predictions.labels)
    accuracy = float(right.mean())
    return {
        "images": len(right),
        "bad": len(predictions.skipped),
        "accuracy": accuracy,
        "interval": list(wilson(accuracy, len(right))),
        "balanced_accuracy": balanced_accuracy(right, predictions.labels),
        "commonest_class": commonest.label,
        "commonest_accuracy": commonest.accuracy,
        "classes_answered": len(np.unique(predictions.predicted)),
        "top5": float(predictions.in_top.mean()),
        "loss": float(predictions.losses.mean(dtype=np.float64)),
    }


def single_answer(predictions: Predictions, names: Sequence[str]) -> str:
    """Note on a classifier that answers one class for images of several; "" for others."""
    answers = np.unique(predictions.predicted)
    if len(answers) > 1 or len(np.unique(predictions.labels)) == 1:
        return ""
    return f"answers {quoted([names[int(answers[0])]])} for every image, whatever it shows"


def confusion(predictions: Predictions, num_classes: int) -> npt.NDArray[np.int64]:
    """Confusion matrix [classes classes]: images by true class (row) and prediction (column)."""
    pairs = predictions.labels * num_classes + predictions.predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_report(
    predictions: Predictions, names: Sequence[str], positive: Positive | None = None
) -> dict[str, Any]:
    """Report of `mae evaluate`: summary, accuracy and precision per class, confused classes.

    `positive`: the class of two that sensitivity is about (default: `positive_class`).
    """
    matrix = confusion(predictions, len(names))
    of_class, guessed, right = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    classes = [
        {
            "class": i,
            "name": names[i],
            "images": int(of_class[i]),
            "accuracy": right[i] / of_class[i] if of_class[i] else None,
            "interval": list(wilson(right[i] / of_class[i], int(of_class[i])))
            if of_class[i]
            else None,
            "precision": right[i] / guessed[i] if guessed[i] else None,
        }
        for i in range(len(names))
        if of_class[i] or guessed[i]
    ]
    wrong = np.where(np.eye(len(names), dtype=bool), 0, matrix)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:MOST_ERRORS]
    errors = [
        {"class": names[i], "taken_for": names[j], "images": int(wrong[i, j])}
        for i, j in (divmod(int(place), len(names)) for place in worst)
        if wrong[i, j]
    ]
    whole = {"confusion": matrix.tolist()} if len(names) <= MOST_CLASSES else {}
    known = {**summary(predictions), "skipped": predictions.skipped, "num_classes": len(names)}
    known["commonest_name"] = names[int(of_class.argmax())]
    known["notes"] = [note] if (note := single_answer(predictions, names)) else []
    if len(names) == 2:
        positive = positive or positive_class(names)
        known["two_classes"] = two_class_report(predictions, names, positive)
    return {**known, "classes": classes, "errors": errors, **whole}


def class_table(report: dict[str, Any], rows: int = 5) -> str:
    """Text table of a report: overall numbers, `rows` weakest classes and commonest errors."""
    low, high = (f"{100 * bound:.1f}" for bound in report["interval"])
    bad = f", {report['bad']:,} bad" if report["bad"] else ""
    lines = [
        f"accuracy         {report['accuracy']:6.1%}  ({low}–{high}, 95 % interval) on "
        f"{report['images']:,} images{bad}",
        f"balanced         {report['balanced_accuracy']:6.1%}  (mean over the classes)",
        f"always commonest {report['commonest_accuracy']:6.1%}  "
        f"({quoted([report['commonest_name']])} for every image)",
    ]
    if report["num_classes"] > TOP:
        lines.append(f"among top {TOP}      {report['top5']:6.1%}")
    lines.append(f"cross-entropy    {report['loss']:6.3f}")
    if "two_classes" in report:
        lines += two_class_lines(report["two_classes"])
    known = [one for one in report["classes"] if one["accuracy"] is not None]
    lines.append("weakest classes" if len(known) > rows else "classes")
    lines += [
        f"  {one['accuracy']:6.1%} of {one['images']:5,}  {printable(one['name'])}"
        for one in sorted(known, key=lambda one: one["accuracy"])[:rows]
    ]
    if report["errors"]:
        lines.append("commonest errors")
        lines += [
            f"  {error['images']:6,}  {printable(error['class'])} taken for "
            f"{printable(error['taken_for'])}"
            for error in report["errors"][:rows]
        ]
    return "\n".join(lines)
