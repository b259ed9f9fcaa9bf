"""Scores of segmentations: IoU and accuracy from counts of pixels, with bootstrap intervals."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.evaluation.confidence import Interval, bca, wilson
from mae.evaluation.mask_classes import IGNORE

RESAMPLES = 1000
"""bootstrap resamples"""

CELLS = 2**24
"""numbers held at a time while resampling: 128 MB"""

Counts = npt.NDArray[np.int64]
"""[images classes 3] numbers of pixels: true positives, predicted, true"""

Floats = npt.NDArray[np.float64]


class Quality(NamedTuple):
    """Mean IoU and accuracy, 0 to 1."""

    mean_iou: float
    """mean over classes of intersection over union (as in PASCAL VOC, Everingham et al. 2015)"""
    accuracy: float
    """share of the pixels that are classified correctly"""


class SegmentationScores(NamedTuple):
    """Mean IoU and accuracy with 95 % bootstrap intervals over images."""

    mean_iou: float
    mean_iou_interval: Interval
    accuracy: float
    accuracy_interval: Interval


def count(predicted: Tensor, truth: Tensor, classes: int) -> Counts:
    """Counts of a batch from predicted classes and true ones, or IGNORE: int64 [b …] each."""
    predicted, truth = predicted.flatten(1), truth.flatten(1)
    valid = truth != IGNORE
    rows = []
    for guess, true, ok in zip(predicted, truth, valid, strict=True):
        guess, true = guess[ok], true[ok]
        parts = (guess[guess == true], guess, true)
        rows.append(torch.stack([part.bincount(minlength=classes) for part in parts], dim=1))
    return torch.stack(rows).cpu().numpy()


def class_ious(counts: npt.NDArray) -> Floats:
    """IoU of each class from summed counts [… classes 3]; NaN where neither predicted nor true."""
    right, predicted, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = predicted + true - right
    return np.divide(right, union, out=np.full(right.shape, np.nan), where=union > 0)


def quality(counts: npt.NDArray) -> Quality:
    """Mean IoU and accuracy of summed counts [classes 3], over classes predicted or true."""
    return Quality(*_scores(counts[None])[0].tolist())


def _scores(totals: npt.NDArray, stand_in: Floats | None = None) -> Floats:
    """Mean IoU and accuracy [r 2] of summed counts [r classes 3].

    Classes neither predicted nor true have the IoU `stand_in` [classes]; NaN, or None: left out.
    """
    found = class_ious(totals)
    if stand_in is not None:
        found = np.where(np.isnan(found), stand_in, found)
    present = ~np.isnan(found)
    mean = np.where(present, found, 0).sum(axis=1) / np.maximum(1, present.sum(axis=1))
    right, true = totals[..., 0].sum(axis=1), totals[..., 2].sum(axis=1)
    return np.stack([mean, right / np.maximum(1, true)], axis=1)


def score_counts(counts: Counts, seed: int) -> SegmentationScores:
    """Scores over all images, with intervals by bootstrap over images.

    Where no resample differs (all is right, or all wrong) the interval is Wilson's for a share of
    as many images; a single image leaves everything open.
    """
    found = quality(counts.sum(axis=0))
    intervals = [
        wilson(estimate, len(counts)) if low == high else Interval(low, high)
        for estimate, (low, high) in zip(
            found, _intervals(lambda one: one, [counts], seed, Interval(0, 1)), strict=True
        )
    ]
    return SegmentationScores(found.mean_iou, intervals[0], found.accuracy, intervals[1])


def compare(counts: Counts, other: Counts, seed: int) -> dict[str, Any]:
    """Differences of the scores of `counts` and `other`, with paired bootstrap intervals."""
    change = np.subtract(quality(counts.sum(axis=0)), quality(other.sum(axis=0))).tolist()
    mean_iou, accuracy = _intervals(np.subtract, [counts, other], seed, Interval(-1, 1))
    return {
        "mean_iou_difference": change[0],
        "mean_iou_interval": list(mean_iou),
        "difference": change[1],
        "interval": list(accuracy),
    }


def _intervals(
    combine: Callable[..., Floats], parts: list[Counts], seed: int, whole: Interval
) -> list[Interval]:
    """BCa intervals of mean IoU and accuracy, combined of `parts`: the same images for each.

    A resample may lack the few images of a rare class.  Its mean IoU is then computed twice:
    without the class, which biases it (a rare class is often one of a low IoU), and with the
    class's IoU over all images, which understates how much it varies.  The interval covers both.
    `whole`: all possible values, the interval where there is a single image.
    """
    if len(parts[0]) == 1:
        return [whole, whole]
    totals = [part.sum(axis=0) for part in parts]
    drawn = [np.concatenate(list(resampled(part, seed))) for part in parts]
    left_out = [total - part for total, part in zip(totals, parts, strict=True)]
    estimate = combine(*(_scores(total[None]) for total in totals))[0].tolist()
    without: list[Floats | None] = [None] * len(parts)
    both = []
    for stand_ins in (without, [class_ious(total) for total in totals]):
        scores, jackknife = (
            combine(*map(_scores, found, stand_ins)) for found in (drawn, left_out)
        )
        both.append([bca(estimate[i], scores[:, i], jackknife[:, i]) for i in (0, 1)])
    return [
        Interval(min(one.low, other.low), max(one.high, other.high))
        for one, other in zip(*both, strict=True)
    ]


def resampled(counts: Counts, seed: int) -> Iterator[Floats]:
    """Summed counts [r classes 3], RESAMPLES in all, of bootstrap resamples of the images.

    `seed` alone determines the images drawn.
    """
    n, chance = len(counts), np.random.default_rng(seed)
    flat = counts.reshape(n, -1).astype(np.float64)
    for part in np.array_split(np.arange(RESAMPLES), -(-RESAMPLES * n // CELLS)):
        drawn = chance.multinomial(n, np.full(n, 1 / n), size=len(part)).astype(np.float64)
        yield (drawn @ flat).reshape(-1, *counts.shape[1:])
