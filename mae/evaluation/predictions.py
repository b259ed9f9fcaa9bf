"""Predictions of a classifier for the images of a data set, by one process or several."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.divided_work import DividedWork
from mae.base.errors import RunFailed, UserError
from mae.base.progress import Progress
from mae.data.images import BadSample, Images
from mae.data.required_labels import require_labels
from mae.data.views import CentredViews
from mae.data.worker_loader import load_in_workers
from mae.evaluation.features import Skipped, UsableViews, ranges
from mae.evaluation.parts import do_batches
from mae.evaluation.results import TOP, label_ranks

BATCH = 64
"""images per batch; independent of the number of processes, so that results are bitwise equal"""

Labels = npt.NDArray[np.int64]

NO_MARGINS = np.empty(0)
"""margins of classifiers of more than two classes"""


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
    margins: npt.NDArray[np.float64] = NO_MARGINS
    """[n] output of class 1 minus that of class 0, the log odds; empty where there are not two"""


class ClassifiedImages(NamedTuple):
    """Classifier, and the labelled images that it is evaluated on."""

    logits: Callable[[Tensor], Tensor]
    """integers [b c h w] → [b classes]"""
    images: Images
    labels: Labels
    """[n] of all images"""
    img_size: tuple[int, int]
    crop_pct: float | None


class _Part(NamedTuple):
    """Predictions for one batch; small enough to be sent to the other processes."""

    samples: list[int]
    predicted: list[int]
    in_top: list[bool]
    losses: list[float]
    bad: list[BadSample]
    margins: list[float]
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
    subject: ClassifiedImages,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad: int | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    gather: Callable[[list[Any]], list[Any]] = lambda own: own,
) -> Predictions:
    """Classify the centred views of all images, while a run trains.

    Called by all processes, each of which evaluates its share; `gather` joins the lists of all
    processes into one list on each (`accelerate.utils.gather_object`).  Images that do not decode
    are skipped and named.  Raises, on all processes alike, StorageError where a shard cannot be
    read, RunFailed where logits are not finite and UserError where more than `max_bad` images
    (None: all) cannot be decoded.
    """
    batches = ranges(len(subject.images.manifest), BATCH)[process_index::num_processes]
    try:
        own = list(_predict(subject, batches, device, workers, max_bad))
    except (UserError, RunFailed) as error:
        own = [
            _Part(samples=[], predicted=[], in_top=[], losses=[], bad=[], margins=[], problem=error)
        ]
    parts: list[_Part] = sorted(gather(own), key=lambda part: part.samples)
    for part in parts:
        if part.problem is not None:
            raise part.problem
    return _joined(parts, subject, max_bad)


def do_predictions(
    work: DividedWork,
    name: str,
    subject: ClassifiedImages,
    show: Progress,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    max_bad: int | None = None,
) -> Callable[[], Predictions]:
    """Classify the centred views of this process's parts `name` of the images.

    Returns a function that joins the parts of all processes.  Both raise as `evaluate_classifier`.
    """

    def compute(batches: Sequence[range]) -> Iterator[_Part]:
        return _predict(subject, batches, device, workers, max_bad)

    def join() -> Predictions:
        found = (_Part(*row) for part in work.results(name, count) for row in json.loads(part))
        parts = (one._replace(bad=[BadSample(*bad) for bad in one.bad]) for one in found)
        return _joined(list(parts), subject, max_bad)

    total = len(subject.images.manifest)
    count = do_batches(work, name, total, BATCH, compute, _packed, show)
    return join


def _packed(parts: list[_Part]) -> bytes:
    return json.dumps([part[:-1] for part in parts]).encode()


@torch.no_grad()
def _predict(
    subject: ClassifiedImages,
    batches: Sequence[range],
    device: torch.device | str,
    workers: int,
    max_bad: int | None,
) -> Iterator[_Part]:
    """Predictions for each of `batches`; raises as soon as these alone have too many bad images."""
    images, skipped = subject.images, _skipped(subject.images, max_bad)
    views = UsableViews(CentredViews(images, subject.img_size, subject.crop_pct))
    for found in load_in_workers(views, batches, workers):
        skipped.add(found.bad)
        yield _predict_batch(subject, found, device)


def _predict_batch(subject: ClassifiedImages, found: Any, device: torch.device | str) -> _Part:
    if found.images is None:
        return _Part([], [], [], [], found.bad, [])
    scores = subject.logits(found.images.to(device)).float().cpu()
    if not scores.isfinite().all():
        raise RunFailed("the classifier's outputs are not finite")
    truth = subject.labels[found.samples]
    return _Part(
        found.samples,
        scores.argmax(1).tolist(),
        (label_ranks(scores, truth) < TOP).tolist(),
        F.cross_entropy(scores, torch.from_numpy(truth), reduction="none").tolist(),
        found.bad,
        (scores[:, 1] - scores[:, 0]).tolist() if scores.shape[1] == 2 else [],
    )


def _joined(parts: Sequence[_Part], subject: ClassifiedImages, max_bad: int | None) -> Predictions:
    """Predictions of all images, from those of all batches in order."""
    skipped = _skipped(subject.images, max_bad)
    skipped.add(sorted(bad for part in parts for bad in part.bad))
    margins = np.array([m for part in parts for m in part.margins], dtype=np.float64)
    samples = np.array([s for part in parts for s in part.samples], dtype=np.int64)
    return Predictions(
        subject.labels[samples],
        np.array([g for part in parts for g in part.predicted], dtype=np.int64),
        np.array([t for part in parts for t in part.in_top], dtype=bool),
        np.array([loss for part in parts for loss in part.losses], dtype=np.float32),
        skipped.reasons,
        margins,
    )


def _skipped(images: Images, max_bad: int | None) -> Skipped:
    return Skipped(images, len(images.manifest) if max_bad is None else max_bad)
