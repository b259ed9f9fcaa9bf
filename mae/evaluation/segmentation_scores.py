"""How well pixels were told apart: counts per image, and what follows from their sums."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.evaluation.segmentation_masks import IGNORE

RESAMPLES = 1000

Counts = npt.NDArray[np.int64]
"""[images classes 3]: pixels rightly told to be of the class, told to be of it, and of it"""


class Quality(NamedTuple):
    """Two numbers, 0 to 1."""

    mean_iou: float
    """mean over classes of intersection over union (as in PASCAL VOC, Everingham et al. 2015)"""
    accuracy: float
    """share of the pixels that were told rightly"""


class Judged(NamedTuple):
    """A quality, and the central 95 % of it over resampled images."""

    mean_iou: float
    mean_iou_interval: tuple[float, float]
    accuracy: float
    accuracy_interval: tuple[float, float]


def count(told: Tensor, truth: Tensor, classes: int) -> Counts:
    """Counts of a batch: classes that were told, and true ones or IGNORE, int64 [b …]."""
    told, truth = told.flatten(1), truth.flatten(1)
    valid = truth != IGNORE
    rows = []
    for guess, true, ok in zip(told, truth, valid, strict=True):
        guess, true = guess[ok], true[ok]
        parts = (guess[guess == true], guess, true)
        rows.append(torch.stack([part.bincount(minlength=classes) for part in parts], dim=1))
    return torch.stack(rows).cpu().numpy()


def quality(counts: npt.NDArray) -> Quality:
    """Of one sum of counts, [classes 3]; classes neither told nor true are left out."""
    right, told, true = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = told + true - right
    present = union > 0
    iou = right[present] / union[present]
    return Quality(
        float(iou.mean()) if present.any() else 0.0, float(right.sum() / max(1, true.sum()))
    )


def judge(counts: Counts, seed: int) -> Judged:
    """Quality over all images; the interval by bootstrap (Efron 1979): images drawn anew."""
    low, high = np.percentile(sampled(counts, seed), [2.5, 97.5], axis=0).tolist()
    found = quality(counts.sum(axis=0))
    return Judged(found.mean_iou, (low[0], high[0]), found.accuracy, (low[1], high[1]))


def compare(counts: Counts, other: Counts, seed: int) -> dict[str, Any]:
    """How far `counts` are above `other`, of the same images: of both, the same are drawn anew."""
    change = np.subtract(quality(counts.sum(axis=0)), quality(other.sum(axis=0))).tolist()
    drawn = sampled(counts, seed) - sampled(other, seed)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0).tolist()
    return {
        "mean_iou_difference": change[0],
        "mean_iou_interval": [low[0], high[0]],
        "difference": change[1],
        "interval": [low[1], high[1]],
    }


def sampled(counts: Counts, seed: int) -> npt.NDArray[np.float64]:
    """[RESAMPLES 2] qualities of images drawn anew; which ones depends on `seed` alone."""
    return np.array([quality(total) for total in resampled(counts, seed)])


def resampled(counts: Counts, seed: int) -> npt.NDArray[np.float64]:
    """[RESAMPLES classes 3] sums over as many images as there are, drawn with replacement."""
    n = len(counts)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return (drawn @ counts.reshape(n, -1)).reshape(RESAMPLES, *counts.shape[1:]).astype(np.float64)
