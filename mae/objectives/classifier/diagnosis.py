"""Findings on a run of classification, in plain words: each with its threshold."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from mae.evaluation.diagnosis import Finding, Row, RunRecord, interval, number, series

ABOVE_CHANCE = 0.02
MOVED = 0.01
"""changes of the held-out accuracy below this count as none"""

GAP = 0.1
"""between training and held-out accuracy, and between all images and the mean of the classes"""

NAMED = 3


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
                "Accuracy in training says little. Give data.val labelled shards, or use "
                "mae evaluate.",
            )
        return
    shown = f"Held-out accuracy {accuracy:.1%}{_around(last)}"
    is_early = (number(last, "epoch") or 0.0) <= warmup_epochs
    if classes and balanced is not None and balanced < 1 / classes + ABOVE_CHANCE:
        yield Finding(
            "watch" if is_early else "bad",
            f"{shown} is no better than guessing",
            f"The mean over the classes is {balanced:.1%}, and 1 in {classes:.0f} is chance "
            f"({1 / classes:.1%}). "
            + (
                "It is still warming up."
                if is_early
                else "Is the learning rate too high or too low, the training too short, are the "
                "labels right?"
            ),
        )
        return
    found = series(health, "accuracy")
    before = found[: -max(1, len(found) // 3)]
    best = max(found)
    compared = f"Against the first two thirds of the measurements; below {MOVED:.0%} is no change."
    if len(found) < 3:
        yield Finding("good", shown, "Too few measurements to tell where it goes.")
    elif best - accuracy > max(MOVED, _half(last)):
        yield Finding(
            "watch",
            f"{shown}, down from {best:.1%}",
            "By more than its interval: shorter training, a lower learning rate, or stronger "
            "augmentation. The last checkpoint is what is evaluated, not the best one.",
        )
    elif accuracy - max(before) > MOVED:
        yield Finding(
            "good",
            f"{shown}, still rising",
            f"{compared} At the end of a run this means: longer training may still help.",
        )
    else:
        yield Finding("good", f"{shown}, steady", compared)


def _about_overfitting(metrics: Sequence[Row], health: Sequence[Row]) -> Iterator[Finding]:
    trained, held_out = series(metrics, "accuracy"), series(health, "accuracy")
    if trained and held_out:
        gap = fmean(trained[-5:]) - held_out[-1]
        if gap > GAP:
            yield Finding(
                "watch",
                f"{100 * gap:.0f} points more accurate in training than on held-out images",
                f"Above {100 * GAP:.0f} it learns by heart, the more so as mixed images are the "
                "harder ones: more images, stronger augmentation, or held-out images of another "
                "kind?",
            )
    losses = series(health, "loss")
    if len(losses) > 2 and losses[-1] > 1.1 * min(losses):
        yield Finding(
            "watch",
            f"Held-out cross-entropy rises: {losses[-1]:.3f}, {min(losses):.3f} at best",
            "Above 10 % it grows surer than it is right: do not trust its probabilities.",
        )


def _about_classes(health: Sequence[Row], evaluation: Row) -> Iterator[Finding]:
    last = evaluation or (health[-1] if health else {})
    accuracy, balanced = number(last, "accuracy"), number(last, "balanced_accuracy")
    rows = evaluation.get("classes")
    known = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    missed = [str(row.get("name", "?")) for row in known if number(row, "accuracy") == 0]
    if missed:
        names = ", ".join(missed[:NAMED]) + (" …" if len(missed) > NAMED else "")
        yield Finding(
            "watch",
            f"{len(missed)} of {len(known)} classes never recognised: {names}",
            "Too few training images of them, or labels that do not tell them apart?",
        )
    if accuracy is not None and balanced is not None and accuracy - balanced > GAP:
        yield Finding(
            "watch",
            f"Rare classes do worse: {balanced:.1%} as the mean of the classes",
            f"More than {100 * GAP:.0f} points below the accuracy over all images. Look at the "
            "classes one by one before trusting the whole.",
        )


def _around(row: Row) -> str:
    found = interval(row)
    return f" ({100 * found[0]:.1f}–{100 * found[1]:.1f})" if found else ""


def _half(row: Row) -> float:
    found = interval(row)
    return (found[1] - found[0]) / 2 if found else 0.0
