"""How well a classifier does on images it was not trained on: overall and class by class."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.errors import RunFailed, UserError
from mae.data.images import BadSample, Images
from mae.data.manifest import require_labels
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.confidence import balanced_accuracy, wilson
from mae.evaluation.features import Skipped, UsableViews, ranges
from mae.evaluation.results import TOP

BATCH = 64
"""images at a time; the same batches on any number of processes, so the same bits"""

MOST_CLASSES = 100
"""up to so many classes the whole confusion matrix is on record, else only the largest errors"""

MOST_ERRORS = 50

Labels = npt.NDArray[np.int64]


class Predictions(NamedTuple):
    """What a classifier made of the images that could be decoded, in the order of the manifest."""

    labels: Labels
    predicted: Labels
    in_top: npt.NDArray[np.bool_]
    """the label is among the TOP most probable classes"""
    losses: npt.NDArray[np.float32]
    """cross-entropy with the label, in nats"""
    skipped: list[str]
    """what is wrong with further images, which could not be decoded"""


class _Part(NamedTuple):
    """What one batch yields; small enough to be sent to the other processes."""

    samples: list[int]
    predicted: list[int]
    in_top: list[bool]
    losses: list[float]
    bad: list[BadSample]
    problem: UserError | RunFailed | None = None
    """why this process got no further: for all of them to raise, not for it alone"""


def require_classes(images: Images, key: str, num_classes: int) -> Labels:
    """The labels of all samples; UserError where one is missing, or is no class of the model."""
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
    crop_pct: float,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad: int | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    gather: Callable[[list[Any]], list[Any]] = lambda own: own,
) -> Predictions:
    """Classify the centred views of all `images`; `logits`: integers [b c h w] → [b classes].

    Called by all processes, each of which does its share; `gather` joins a list of each process
    to one list on all (`accelerate.utils.gather_object`).  Images that do not decode are left out
    and named.  Raises StorageError where a shard cannot be read, RunFailed where `logits` are not
    finite and UserError where more than `max_bad` images (None: all) cannot be decoded, on all
    processes alike.
    """
    most = len(images.manifest) if max_bad is None else max_bad
    slices = ranges(len(images.manifest), BATCH)
    views = UsableViews(CentredViews(images, img_size, crop_pct))
    own: list[_Part] = []
    met, skipped = (Skipped(images, most) for _ in range(2))
    try:
        for found in load_in_workers(views, slices[process_index::num_processes], workers):
            met.add(found.bad)
            own.append(_judge_batch(logits, found, labels, device))
    except (UserError, RunFailed) as error:
        own = [_Part([], [], [], [], [], error)]
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
def _judge_batch(
    logits: Callable[[Tensor], Tensor], found: Any, labels: Labels, device: torch.device | str
) -> _Part:
    if found.images is None:
        return _Part([], [], [], [], found.bad)
    scores = logits(found.images.to(device)).float().cpu()
    if not scores.isfinite().all():
        raise RunFailed("the classifier's outputs are not finite")
    wanted = torch.from_numpy(labels[found.samples])
    top = scores.topk(min(TOP, scores.shape[1]), dim=1).indices
    return _Part(
        found.samples,
        top[:, 0].tolist(),
        (top == wanted[:, None]).any(1).tolist(),
        F.cross_entropy(scores, wanted, reduction="none").tolist(),
        found.bad,
    )


def summary(predictions: Predictions) -> dict[str, Any]:
    """The numbers that are worth a line."""
    right = predictions.predicted == predictions.labels
    accuracy = float(right.mean())
    return {
        "images": len(right),
        "bad": len(predictions.skipped),
        "accuracy": accuracy,
        "interval": list(wilson(accuracy, len(right))),
        "balanced_accuracy": balanced_accuracy(right, predictions.labels),
        "top5": float(predictions.in_top.mean()),
        "loss": float(predictions.losses.mean(dtype=np.float64)),
    }


def confusion(predictions: Predictions, num_classes: int) -> npt.NDArray[np.int64]:
    """[classes classes]: how many images of each class (row) were taken for each (column)."""
    pairs = predictions.labels * num_classes + predictions.predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_report(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """The summary, each class that occurs, and which classes are taken for which."""
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
    return {**known, "classes": classes, "errors": errors, **whole}


def class_table(report: dict[str, Any], rows: int = 5) -> str:
    """For people: the overall numbers, the weakest classes and the commonest errors."""
    low, high = (f"{100 * bound:.1f}" for bound in report["interval"])
    bad = f", {report['bad']:,} bad" if report["bad"] else ""
    lines = [
        f"accuracy         {report['accuracy']:6.1%}  ({low}–{high}, 95 % interval) on "
        f"{report['images']:,} images{bad}",
        f"mean of classes  {report['balanced_accuracy']:6.1%}",
    ]
    if report["num_classes"] > TOP:
        lines.append(f"among top {TOP}      {report['top5']:6.1%}")
    lines.append(f"cross-entropy    {report['loss']:6.3f}")
    known = [one for one in report["classes"] if one["accuracy"] is not None]
    lines.append("weakest classes" if len(known) > rows else "classes")
    lines += [
        f"  {one['accuracy']:6.1%} of {one['images']:5,}  {one['name']}"
        for one in sorted(known, key=lambda one: one["accuracy"])[:rows]
    ]
    if report["errors"]:
        lines.append("commonest errors")
        lines += [
            f"  {error['images']:6,}  {error['class']} taken for {error['taken_for']}"
            for error in report["errors"][:rows]
        ]
    return "\n".join(lines)
