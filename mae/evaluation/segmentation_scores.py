"""Scores of segmentations: IoU and accuracy from counts of pixels, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.evaluation.confidence import Interval, bca, wilson
from mae.evaluation.image_counts import Counts, Floats, ImageCounts
from mae.evaluation.mask_classes import IGNORE

RESAMPLES = 1000
"""bootstrap resamples"""

CELLS = 2**24
"""numbers held at a time while images are drawn: 128 MB"""


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


class Resampled(NamedTuple):
    """Counts of images, and their sums over bootstrap resamples of the images."""

    counts: ImageCounts
    sums: Floats
    """[RESAMPLES classes 3]"""


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


def resample(parts: Sequence[ImageCounts], seed: int) -> list[Resampled]:
    """Bootstrap over the images of each of `parts`: the same resamples of as many images.

    `seed` alone determines the images drawn, RESAMPLES times.
    """
    images, chance = parts[0].images, np.random.default_rng(seed)
    shares = np.full(images, 1 / images)
    drawn = np.empty((RESAMPLES, images), np.uint8)  # 255 times the same image: as good as never
    for rows in np.array_split(np.arange(RESAMPLES), -(-RESAMPLES * images // CELLS)):
        drawn[rows] = chance.multinomial(images, shares, size=len(rows))
    return [Resampled(part, part.weighted(drawn)) for part in parts]


def score_counts(found: Resampled) -> SegmentationScores:
    """Scores over all images, with intervals by bootstrap over images.

    Where no resample differs (all is right, or all wrong) the interval is Wilson's for a share of
    as many images; a single image leaves everything open.
    """
    scores = quality(found.counts.total())
    intervals = [
        wilson(estimate, found.counts.images) if low == high else Interval(low, high)
        for estimate, (low, high) in zip(
            scores, _intervals(lambda one: one, [found], Interval(0, 1)), strict=True
        )
    ]
    return SegmentationScores(scores.mean_iou, intervals[0], scores.accuracy, intervals[1])


def compare(found: Resampled, other: Resampled) -> dict[str, Any]:
    """Differences of the scores of `found` and `other`, with paired bootstrap intervals."""
    ours, theirs = (quality(one.counts.total()) for one in (found, other))
    change = np.subtract(ours, theirs).tolist()
    mean_iou, accuracy = _intervals(np.subtract, [found, other], Interval(-1, 1))
    return {
        "mean_iou_difference": change[0],
        "mean_iou_interval": list(mean_iou),
        "difference": change[1],
        "interval": list(accuracy),
    }


def _intervals(
    combine: Callable[..., Floats], parts: list[Resampled], whole: Interval
) -> list[Interval]:
    """BCa intervals of mean IoU and accuracy, combined of `parts`: the same images for each.

    A resample may lack the few images of a rare class.  Its mean IoU is then computed twice:
    without the class, which biases it (a rare class is often one of a low IoU), and with the
    class's IoU over all images, which understates how much it varies.  The interval covers both.
    `whole`: all possible values, the interval where there is a single image.
    """
    if parts[0].counts.images == 1:
        return [whole, whole]
    totals = [part.counts.total() for part in parts]
    estimate = combine(*(_scores(total[None]) for total in totals))[0].tolist()
    without: list[Floats | None] = [None] * len(parts)
    both = []
    for stand_ins in (without, [class_ious(total) for total in totals]):
        drawn = [_scores(part.sums, one) for part, one in zip(parts, stand_ins, strict=True)]
        left_out = [
            np.concatenate([_scores(total - table, one) for table in part.counts.blocks()])
            for part, total, one in zip(parts, totals, stand_ins, strict=True)
        ]
        scores, jackknife = combine(*drawn), combine(*left_out)
        both.append([bca(estimate[i], scores[:, i], jackknife[:, i]) for i in (0, 1)])
    return [
        Interval(min(one.low, other.low), max(one.high, other.high))
        for one, other in zip(*both, strict=True)
    ]
