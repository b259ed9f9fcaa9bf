"""What all evaluations of frozen features share: checks, what goes on record, tables."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import mae
from mae.evaluation.confidence import balanced_accuracy, paired_difference, wilson
from mae.evaluation.features_file import FeatureSet

PRETRAINED = "pretrained"
PACKAGES = ("torch", "timm", "numpy", "scikit-learn")
INTERVAL = (
    "95 %: Wilson's, of the accuracy over the test images (a mean over splits counts as one "
    "accuracy); differences: percentile bootstrap over the test images, paired, 10,000 resamples"
)
SAME = ("encoder", "img_size", "crop_pct", "pixels", "channels", "bits")
"""what features must agree on to be compared"""


class Subject(NamedTuple):
    """An encoder's features of both data sets."""

    encoder: str
    """pretrained, untrained or raw"""
    train: FeatureSet
    test: FeatureSet


class Result(NamedTuple):
    """Which test images a classifier got right."""

    encoder: str
    feature: str
    right: npt.NDArray[np.bool_]
    """[splits m]"""
    budget: dict[str, Any]
    """how many training labels it was given; empty: all"""
    chosen: dict[str, Any]
    """what was chosen for it, on the training set"""


def rows_of(results: Sequence[Result], labels: npt.NDArray[np.int64], seed: int) -> list[dict]:
    """One row per result: accuracies, intervals, and how far pretraining is above the others.

    `labels` are those of the test images.
    """
    share = {(r.encoder, r.feature, str(r.budget)): r.right.mean(axis=0) for r in results}
    rows = []
    for result in results:
        right, accuracies = result.right.mean(axis=0), result.right.mean(axis=1)
        accuracy = float(accuracies.mean())
        several = len(accuracies) > 1
        row: dict[str, Any] = {
            "encoder": result.encoder,
            "feature": result.feature,
            **result.budget,
            "accuracy": accuracy,
            "interval": list(wilson(accuracy, len(labels))),
            "balanced_accuracy": balanced_accuracy(right, labels),
            "deviation": float(accuracies.std(ddof=1)) if several else 0.0,
            "accuracies": accuracies.tolist(),
            **result.chosen,
        }
        if result.encoder == PRETRAINED:
            row["above"] = {}
            for (encoder, feature, budget), other in share.items():
                same = feature == result.feature or encoder == "raw"
                if encoder != PRETRAINED and same and budget == str(result.budget):
                    mean, interval = paired_difference(right, other, seed)
                    row["above"][encoder] = {"difference": mean, "interval": list(interval)}
        rows.append(row)
    return rows


def record(subject: Subject, rows: list[dict], **facts: Any) -> dict[str, Any]:
    """The report of an evaluation: `facts`, what was measured on, when and with which versions."""
    train, test = subject.train, subject.test
    return {
        **facts,
        "interval": INTERVAL,
        "train_images": len(train.labels),
        "test_images": len(test.labels),
        "classes": len(np.unique(train.labels)),
        "train": _origin(train),
        "test": _origin(test),
        "encoder": {key: train.metadata.get(key) for key in (*SAME, "precision")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "mae": mae.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "results": rows,
    }


def _origin(part: FeatureSet) -> dict[str, Any]:
    return {"data": part.metadata.get("data"), "left_out": part.dropped()}


def budget_name(row: dict[str, Any]) -> str:
    """How many labels a row was given, in words."""
    if row.get("per_class") is not None:
        return f"{row['per_class']} per class"
    return f"{row['percent']:g} %" if row.get("percent") is not None else "all"


def table(title: str, report: dict[str, Any]) -> str:
    """The report for people: a line per result."""
    rows = report["results"]
    several = any(len(row["accuracies"]) > 1 for row in rows)
    others = list(dict.fromkeys(other for row in rows for other in row.get("above", ())))
    heads = ["labels", "top-1", "95 %", *["± splits"] * several, "per class"]
    heads += [f"above {other}" for other in others]
    lines = [[title, *heads]]
    for row in rows:
        low, high = (100 * bound for bound in row["interval"])
        lines.append(
            [
                f"{row['encoder']} {row['feature']}",
                budget_name(row),
                f"{row['accuracy']:.1%}",
                f"{low:.1f}–{high:.1f}",
                *[f"{100 * row['deviation']:.1f}" if len(row["accuracies"]) > 1 else ""] * several,
                f"{row['balanced_accuracy']:.1%}",
                *(_difference(row.get("above", {}).get(other)) for other in others),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
