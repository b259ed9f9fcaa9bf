"""What all evaluations of frozen features share: rows of results, and what goes on record."""

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import mae
from mae.data.images import Images
from mae.evaluation.confidence import balanced_accuracy, paired_difference, share_right, wilson
from mae.evaluation.encoders import FINE_TUNED, PRETRAINED, RAW
from mae.evaluation.features_file import FeatureSet

LEARNT = (PRETRAINED, FINE_TUNED)
"""encoders that are judged; others are what they are compared with"""

TOP = 5
PACKAGES = ("torch", "timm", "numpy", "scikit-learn")
INTERVAL = (
    "95 %. One split: Wilson's, over the test images alone. Several splits: percentile bootstrap "
    "over splits and test images together (10,000 resamples; of n splits n - 1 are drawn), nowhere "
    "narrower than Wilson's. Differences: the same bootstrap, paired by image and split. What a "
    "split draws anew is `deviation_of`"
)
DRAWS = "draws of the labels"
SLICES = "slices that choose C"
SAME = ("encoder", "img_size", "crop_pct", "pixels", "channels", "bits")
"""what features must agree on to be compared"""


class Subject(NamedTuple):
    """An encoder's features of both data sets."""

    encoder: str
    """pretrained or fine-tuned, untrained, raw"""
    train: FeatureSet
    test: FeatureSet


class Part(NamedTuple):
    """What was looked at of a data set."""

    images: int
    data: str | None
    """the manifest's fingerprint"""
    left_out: list[str]
    """what was wrong with further images"""


class Result(NamedTuple):
    """Which test images a classifier got right."""

    encoder: str
    feature: str
    right: npt.NDArray[np.bool_]
    """[splits m]"""
    budget: dict[str, Any]
    """how many training labels it was given; empty: all"""
    more: dict[str, Any]
    """further columns of its row: what was chosen for it, on the training set"""


def saying(say: Callable[[str], None], name: str) -> Callable[[str], None]:
    """`say`, of the encoder `name`."""
    return lambda text: say(f"{name}: {text}")


def ranks_of_truth(scores: Tensor, truth: npt.NDArray[np.int64]) -> Tensor:
    """[b] how many classes score higher in `scores` [b classes] than each image's own.

    0 is a right answer; a score that is no number is not right.
    """
    own = torch.from_numpy(truth).to(scores.device)[:, None]
    return (~(scores <= scores.gather(1, own))).sum(1)


def ranked(
    encoder: str, feature: str, ranks: npt.NDArray[np.int64], classes: int, more: dict[str, Any]
) -> Result:
    """Of [m] test images: how many classes scored higher than the right one."""
    among: dict[str, Any] = {}
    if classes > TOP:
        share = float((ranks < TOP).mean())
        among = {"top5_accuracy": share, "top5_interval": list(wilson(share, len(ranks)))}
    return Result(encoder, feature, (ranks == 0)[None], {}, {**among, **more})


def rows_of(results: Sequence[Result], labels: npt.NDArray[np.int64], seed: int) -> list[dict]:
    """One row per result: accuracies, intervals, and how far training is above the others.

    `labels` are those of the test images.
    """
    right_of = {(r.encoder, r.feature, str(r.budget)): r.right for r in results}
    rows = []
    for result in results:
        accuracies = result.right.mean(axis=1)
        deviation: dict[str, Any] = {"deviation": 0.0}
        if len(accuracies) > 1:
            varied = SLICES if budget_name(result.budget) == "all" else DRAWS
            deviation = {"deviation": float(accuracies.std(ddof=1)), "deviation_of": varied}
        row: dict[str, Any] = {
            "encoder": result.encoder,
            "feature": result.feature,
            **result.budget,
            "accuracy": float(accuracies.mean()),
            "interval": list(share_right(result.right, seed)),
            "balanced_accuracy": balanced_accuracy(result.right.mean(axis=0), labels),
            **deviation,
            "accuracies": accuracies.tolist(),
            **result.more,
        }
        if result.encoder in LEARNT:
            row["above"] = {}
            for (encoder, feature, budget), other in right_of.items():
                same = feature == result.feature or encoder == RAW
                if encoder not in LEARNT and same and budget == str(result.budget):
                    mean, interval = paired_difference(result.right, other, seed)
                    row["above"][encoder] = {"difference": mean, "interval": list(interval)}
        rows.append(row)
    return rows


def record(subject: Subject, rows: list[dict], **facts: Any) -> dict[str, Any]:
    """The report of an evaluation of features that were encoded once."""
    train, test = (
        Part(len(part.labels), part.metadata.get("data"), part.dropped())
        for part in (subject.train, subject.test)
    )
    return {
        **facts,
        "interval_rule": INTERVAL,
        "classes": len(np.unique(subject.train.labels)),
        **provenance(subject.train.metadata, train, test),
        "results": rows,
    }


def provenance(encoder: Mapping[str, str], train: Part, test: Part) -> dict[str, Any]:
    """What was measured on, when and with which versions; of `encoder` SAME is told."""
    return {
        "train_images": train.images,
        "test_images": test.images,
        "train": {"data": train.data, "left_out": train.left_out},
        "test": {"data": test.data, "left_out": test.left_out},
        "encoder": {key: encoder.get(key) for key in (*SAME, "precision")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "mae": mae.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def part_of(images: Images, left_out: Sequence[str]) -> Part:
    """Of shards, all but those `left_out`."""
    manifest = images.manifest
    return Part(len(manifest) - len(left_out), manifest.fingerprint, list(left_out))


def budget_name(row: Mapping[str, Any]) -> str:
    """How many labels a row was given, in words."""
    if row.get("per_class") is not None:
        return f"{row['per_class']} per class"
    return f"{row['percent']:g} %" if row.get("percent") is not None else "all"
