"""What all evaluations of frozen features share: rows of results, and what goes on record."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
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

TRAINED_ENCODERS = (PRETRAINED, FINE_TUNED)
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


class EvaluatedImages(NamedTuple):
    """What was looked at of a data set."""

    images: int
    data: str | None
    """the manifest's fingerprint"""
    skipped: list[str]
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


def prefixed_log(log: Callable[[str], None], name: str) -> Callable[[str], None]:
    """`log`, of the encoder `name`."""
    return lambda text: log(f"{name}: {text}")


def label_ranks(scores: Tensor, truth: npt.NDArray[np.int64]) -> Tensor:
    """[b] how many classes score higher in `scores` [b classes] than each image's own.

    0 is a right answer; a score that is no number is not right.
    """
    own = torch.from_numpy(truth).to(scores.device)[:, None]
    return (~(scores <= scores.gather(1, own))).sum(1)


def ranking_result(
    encoder: str, feature: str, ranks: npt.NDArray[np.int64], classes: int, more: dict[str, Any]
) -> Result:
    """Of [m] test images: how many classes scored higher than the right one."""
    among: dict[str, Any] = {}
    if classes > TOP:
        share = float((ranks < TOP).mean())
        among = {"top5_accuracy": share, "top5_interval": list(wilson(share, len(ranks)))}
    return Result(encoder, feature, (ranks == 0)[None], {}, {**among, **more})


def result_rows(results: Sequence[Result], labels: npt.NDArray[np.int64], seed: int) -> list[dict]:
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
        if result.encoder in TRAINED_ENCODERS:
            row["above"] = {}
            for (encoder, feature, budget), other in right_of.items():
                same = feature == result.feature or encoder == RAW
                if encoder not in TRAINED_ENCODERS and same and budget == str(result.budget):
                    mean, interval = paired_difference(result.right, other, seed)
                    row["above"][encoder] = {"difference": mean, "interval": list(interval)}
        rows.append(row)
    return rows


def record(subject: Subject, rows: list[dict], **facts: Any) -> dict[str, Any]:
    """The report of an evaluation of features that were encoded once."""
    train, test = (
        EvaluatedImages(len(part.labels), part.metadata.get("data"), part.dropped())
        for part in (subject.train, subject.test)
    )
    return {
        **facts,
        "interval_rule": INTERVAL,
        "classes": len(np.unique(subject.train.labels)),
        **provenance(subject.train.metadata, train, test),
        "results": rows,
    }


def provenance(
    encoder: Mapping[str, str], train: EvaluatedImages, test: EvaluatedImages
) -> dict[str, Any]:
    """What was measured on, when and with which versions; of `encoder` SAME is told."""
    return {
        "train_images": train.images,
        "test_images": test.images,
        "train": {"data": train.data, "left_out": train.skipped},
        "test": {"data": test.data, "left_out": test.skipped},
        "encoder": {key: encoder.get(key) for key in (*SAME, "precision")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "mae": mae.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def evaluated_images(images: Images, skipped: Sequence[str]) -> EvaluatedImages:
    """Of shards, all but those `skipped`."""
    manifest = images.manifest
    return EvaluatedImages(len(manifest) - len(skipped), manifest.fingerprint, list(skipped))


def budget_name(row: Mapping[str, Any]) -> str:
    """How many labels a row was given, in words."""
    if row.get("per_class") is not None:
        return f"{row['per_class']} per class"
    return f"{row['percent']:g} %" if row.get("percent") is not None else "all"


MOST_NAMED = 4


def table(title: str, report: Mapping[str, Any]) -> str:
    """The report's results, and below them what is to be known of them."""
    rows: list[dict[str, Any]] = report["results"]
    others = list(dict.fromkeys(other for row in rows for other in row.get("above", ())))
    varied = [
        kind for kind in (SLICES, DRAWS) if any(row.get("deviation_of") == kind for row in rows)
    ]
    is_ranked = any("top5_accuracy" in row for row in rows)
    heads = ["labels", "top-1", "95 %", *[f"top-{TOP}"] * is_ranked]
    heads += [f"± {kind}" for kind in varied] + ["per class"]
    lines = [[title, *heads, *(f"above {other}" for other in others)]]
    for row in rows:
        spread = f"{100 * row['deviation']:.1f}"
        lines.append(
            [
                f"{row['encoder']} {row['feature']}",
                budget_name(row),
                f"{row['accuracy']:.1%}",
                percents(row["interval"]),
                *[f"{row['top5_accuracy']:.1%}" if "top5_accuracy" in row else ""] * is_ranked,
                *(spread if row.get("deviation_of") == kind else "" for kind in varied),
                f"{row['balanced_accuracy']:.1%}",
                *(difference(row.get("above", {}).get(other)) for other in others),
            ]
        )
    return "\n".join([*aligned(lines), *(f"note: {note}" for note in remarks(report))])


def remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the numbers has to know."""
    yield from report.get("notes", ())
    edge, stopped = [], []
    for row in report["results"]:
        name = f"{row['encoder']} {row['feature']}, {budget_name(row)}"
        if any(row.get("at_edge", ())):
            pairs = zip(row["strengths"], row["at_edge"], strict=True)
            told = ", ".join(f"{c:g}" for c in sorted({c for c, is_edge in pairs if is_edge}))
            edge.append(f"{name} ({told})")
        if not all(row.get("converged", ())):
            stopped.append(name)
    if edge:
        yield f"C at the edge of the candidates, one beyond may do better: {listed(edge)}"
    if stopped:
        yield f"L-BFGS was stopped before it converged: {listed(stopped)}"


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f"; {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]


def percents(values: Sequence[float]) -> str:
    """An interval: `41.2–47.9`."""
    low, high = values
    return f"{100 * low:.1f}–{100 * high:.1f}"


def difference(found: Mapping[str, Any] | None) -> str:
    """With its interval: `+8.9 (+6.1 to +11.7)`; "" for none."""
    if found is None:
        return ""
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
