"""Evaluation of a classifier on held-out images: accuracy overall and per class, confusion."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.errors import RunFailed, UserError
from mae.base.printable import printable
from mae.data.class_names import quoted
from mae.data.images import BadSample, Images
from mae.data.manifest import require_labels
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.confidence import always_commonest, balanced_accuracy, wilson
from mae.evaluation.features import Skipped, UsableViews, ranges
from mae.evaluation.results import TOP, label_ranks

BATCH = 64
"""images per batch; independent of the number of processes, so that results are bitwise equal"""

MOST_CLASSES = 100
"""largest number of classes for which the report holds the whole confusion matrix; with more it
holds only the largest errors"""

MOST_ERRORS = 50
"""largest number of confused pairs of classes in a report"""

Labels = npt.NDArray[np.int64]


class Predictions(NamedTuple):
    """Predictions of a classifier for all images that decode, in the order of the manifest."""

    labels: Labels
    """[n] true classes"""
    predicted: Labels
    """[n] most probable classes"""
    in_top: npt.NDArray[np.bool_]
    """[n] whether the label is among the TOP most probable classes"""
    losses: npt.NDArray[np.float32]
    """[n] cross-entropy with the label, in nats"""
    skipped: list[str]
    """shard, key and error of each image that could not be decoded"""


class _Part(NamedTuple):
    """Predictions for one batch; small enough to be sent to the other processes."""

    samples: list[int]
    predicted: list[int]
    in_top: list[bool]
    losses: list[float]
    bad: list[BadSample]
    problem: UserError | RunFailed | None = None
    """error that stopped this process; raised by all processes together"""


def require_classes(images: Images, key: str, num_classes: int) -> Labels:
    """Labels [n] of all samples.

    Raises UserError where a label is missing, or is not a class of the model.
    """
    labels = require_labels(images.manifest, key)
    if beyond := np.flatnonzero(labels >= num_classes).tolist():
        first = images.manifest.name(beyond[0])
        raise UserError(
            f"{key}: label {labels[beyond[0]]} of {first}, but the model knows {num_classes} "
            f"classes (0 to {num_classes - 1})"
        )
    return labels


def evaluate_classifier(
    logits: Callable[[Tensor], Tensor],
    images: Images,
    labels: Labels,
    img_size: tuple[int, int],
    crop_pct: float | None,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad: int | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    gather: Callable[[list[Any]], list[Any]] = lambda own: own,
) -> Predictions:
    """Classify the centred views of all `images`; `logits`: integers [b c h w] → [b classes].

    Called by all processes, each of which evaluates its share; `gather` joins the lists of all
    processes into one list on each (`accelerate.utils.gather_object`).  Images that do not decode
    are skipped and named.  Raises, on all processes alike, StorageError where a shard cannot be
    read, RunFailed where `logits` are not finite and UserError where more than `max_bad` images
    (None: all) cannot be decoded.
    """
    most = len(images.manifest) if max_bad is None else max_bad
    slices = ranges(len(images.manifest), BATCH)
    views = UsableViews(CentredViews(images, img_size, crop_pct))
    own: list[_Part] = []
    own_skipped, skipped = (Skipped(images, most) for _ in range(2))
    try:
        for found in load_in_workers(views, slices[process_index::num_processes], workers):
            own_skipped.add(found.bad)
            own.append(_predict_batch(logits, found, labels, device))
    except (UserError, RunFailed) as error:
        own = [_Part(samples=[], predicted=[], in_top=[], losses=[], bad=[], problem=error)]
    parts: list[_Part] = sorted(gather(own), key=lambda part: part.samples)
    for part in parts:
        if part.problem is not None:
            raise part.problem
    skipped.add(sorted(bad for part in parts for bad in part.bad))
    samples = np.array([s for part in parts for s in part.samples], dtype=np.int64)
    return Predictions(
        labels[samples],
        np.array([g for part in parts for g in part.predicted], dtype=np.int64),
        np.array([t for part in parts for t in part.in_top], dtype=bool),
        np.array([loss for part in parts for loss in part.losses], dtype=np.float32),
        skipped.reasons,
    )


@torch.no_grad()
def _predict_batch(
    logits: Callable[[Tensor], Tensor], found: Any, labels: Labels, device: torch.device | str
) -> _Part:
    if found.images is None:
        return _Part([], [], [], [], found.bad)
    scores = logits(found.images.to(device)).float().cpu()
    if not scores.isfinite().all():
        raise RunFailed("the classifier's outputs are not finite")
    truth = labels[found.samples]
    return _Part(
        found.samples,
        scores.argmax(1).tolist(),
        (label_ranks(scores, truth) < TOP).tolist(),
        F.cross_entropy(scores, torch.from_numpy(truth), reduction="none").tolist(),
        found.bad,
    )


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


def class_report(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """Report of `mae evaluate`: summary, accuracy and precision per class, confused classes."""
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
    known = {**summary(predictions), "left_out": predictions.skipped, "num_classes": len(names)}
    known["commonest_name"] = names[int(of_class.argmax())]
    known["notes"] = [note] if (note := single_answer(predictions, names)) else []
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
