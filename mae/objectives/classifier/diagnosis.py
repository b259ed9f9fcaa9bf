"""Findings on a run of classification, each with its threshold."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Literal

from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import Row, RunRecord, interval, number, series

ABOVE_CHANCE = 0.02
"""minimum margin of balanced accuracy above chance"""

CHANGE = 0.01
"""minimum change of held-out accuracy that is reported"""

GAP = 0.1
"""maximum gap between training and held-out accuracy, and between accuracy and balanced accuracy"""

MAX_NAMES = 3
"""maximum number of classes that a finding names"""


def diagnose(run: RunRecord) -> Iterator[Finding]:
    """Findings on accuracy, overfitting and single classes."""
    classes = number(run.settings, "finetune.num_classes")
    yield from _about_accuracy(run.metrics, run.health, run.warmup_epochs, classes)
    yield from _about_overfitting(run.metrics, run.health)
    yield from _about_classes(run.health, run.evaluations.get("evaluation", {}))


def _about_accuracy(
    metrics: Sequence[Row], health: Sequence[Row], warmup_epochs: float, classes: float | None
) -> Iterator[Finding]:
    last = health[-1] if health else {}
    accuracy, balanced = number(last, "accuracy"), number(last, "balanced_accuracy")
    if accuracy is None:
        if metrics:
            yield Finding(
                "watch",
                "Never measured on held-out images",
                "Training accuracy is no measure of generalisation. Set data.val to labelled "
                "shards, or use mae evaluate.",
            )
        return
    shown = f"Held-out accuracy {accuracy:.1%}{_interval_text(last)}"
    commonest = number(last, "commonest_accuracy")
    trivial = f" Always answering the commonest class: {commonest:.1%}." if commonest else ""
    is_early = (number(last, "epoch") or 0.0) <= warmup_epochs
    if classes and balanced is not None and balanced < 1 / classes + ABOVE_CHANCE:
        yield Finding(
            "watch" if is_early else "bad",
            f"{shown} is no better than guessing",
            f"The mean over the classes is {balanced:.1%}, and 1 in {classes:.0f} is chance "
            f"({1 / classes:.1%}).{trivial} "
            + (
                "It answers one class for every image. "
                if number(last, "classes_answered") == 1
                else ""
            )
            + (
                "It is still warming up."
                if is_early
                else "Is the learning rate too high or too low, the training too short, are the "
                "labels right?"
            ),
        )
        return
    accuracies = series(health, "accuracy")
    before = accuracies[: -max(1, len(accuracies) // 3)]
    best = max(accuracies)
    compared = f"Against the first two thirds of the measurements; below {CHANGE:.0%} is no change."
    is_compared = bool(classes) and balanced is not None
    guessing = f"Guessing is {1 / classes:.1%}." if classes else "Guessing is not known."
    guessing += trivial
    usual: Literal["good", "note"] = "good" if is_compared else "note"
    if len(accuracies) < 3:
        yield Finding(usual, shown, f"Too few measurements for a trend. {guessing}")
    elif best - accuracy > max(CHANGE, _half_interval(last)):
        yield Finding(
            "watch",
            f"{shown}, down from {best:.1%}",
            "By more than its interval: shorter training, a lower learning rate, or stronger "
            "augmentation. `mae evaluate` uses the last checkpoint, not the best one.",
        )
    elif accuracy - max(before) > CHANGE:
        yield Finding(
            usual,
            f"{shown}, still rising",
            f"{compared} {guessing} At the end of a run this means: longer training may help.",
        )
    else:
        yield Finding(usual, f"{shown}, steady", f"{compared} {guessing}")


def _about_overfitting(metrics: Sequence[Row], health: Sequence[Row]) -> Iterator[Finding]:
    trained, held_out = series(metrics, "accuracy"), series(health, "accuracy")
    if trained and held_out:
        gap = fmean(trained[-5:]) - held_out[-1]
        if gap > GAP:
            yield Finding(
                "watch",
                f"{100 * gap:.0f} points more accurate in training than on held-out images",
                f"Above {100 * GAP:.0f} it overfits, all the more as mixed training images are "
                "harder: more images, stronger augmentation, or held-out images of another kind?",
            )
    losses = series(health, "loss")
    if len(losses) > 2 and losses[-1] > 1.1 * min(losses):
        yield Finding(
            "watch",
            f"Held-out cross-entropy rises: {losses[-1]:.3f}, {min(losses):.3f} at best",
            "Above 10 % it becomes overconfident: do not trust its probabilities.",
        )


def _about_classes(health: Sequence[Row], evaluation: Row) -> Iterator[Finding]:
    last = evaluation or (health[-1] if health else {})
    accuracy, balanced = number(last, "accuracy"), number(last, "balanced_accuracy")
    rows = evaluation.get("classes")
    classes = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    missed = [str(row.get("name", "?")) for row in classes if number(row, "accuracy") == 0]
    if missed:
        names = ", ".join(missed[:MAX_NAMES]) + (" …" if len(missed) > MAX_NAMES else "")
        yield Finding(
            "watch",
            f"{len(missed)} of {len(classes)} classes never recognised: {names}",
            "Too few training images of them, or labels that mix them up?",
        )
    if accuracy is not None and balanced is not None and accuracy - balanced > GAP:
        yield Finding(
            "watch",
            f"Rare classes do worse: {balanced:.1%} as the mean of the classes",
            f"More than {100 * GAP:.0f} points below the accuracy over all images. Check the "
            "accuracy of each class before trusting that of all images.",
        )


def _interval_text(row: Row) -> str:
    bounds = interval(row)
    return f" ({100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})" if bounds else ""


def _half_interval(row: Row) -> float:
    bounds = interval(row)
    return (bounds[1] - bounds[0]) / 2 if bounds else 0.0
