"""Results of evaluations of frozen features: rows with intervals, provenance, text tables."""

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
from mae.base.printable import printable
from mae.base.progress import busy
from mae.data.images import Images
from mae.evaluation.confidence import (
    always_commonest,
    balanced_accuracy,
    only_class,
    paired_difference,
    share_right,
    wilson,
)
from mae.evaluation.encoders import FINE_TUNED, PRETRAINED, RAW
from mae.evaluation.features_file import FeatureSet

TRAINED_ENCODERS = (PRETRAINED, FINE_TUNED)
"""encoders that are evaluated; the others are baselines"""

BASELINE = "always_commonest"
"""entry of reports with the accuracy of always answering the commonest class"""

TOP = 5
"""k of the top-k accuracy"""

PACKAGES = ("torch", "timm", "numpy", "scikit-learn")
"""packages whose versions are recorded"""

INTERVAL = (
    "95 %. One split: Wilson's, over the test images alone. Several splits: percentile bootstrap "
    "over splits and test images together (10,000 resamples; of n splits n - 1 are drawn), nowhere "
    "narrower than Wilson's. Differences: the same bootstrap, paired by image and split. What a "
    "split draws anew is `deviation_of`"
)
DRAWS = "draws of the labels"
SPLITS = "splits that choose C"
"""values of `deviation_of` in a row: the source of the deviation between splits"""

SAME = ("encoder", "img_size", "crop_pct", "view", "pixels", "channels", "bits")
"""metadata in which features must agree to be compared"""

MOST_NAMED = 4
"""number of names listed in a note"""


class Subject(NamedTuple):
    """Features of an encoder for training and test data."""

    encoder: str
    """pretrained or fine-tuned, untrained, raw"""
    train: FeatureSet
    test: FeatureSet


class EvaluatedImages(NamedTuple):
    """Part of a data set that was evaluated."""

    images: int
    """number of images evaluated"""
    data: str | None
    """fingerprint of the manifest"""
    skipped: list[str]
    """shard, key and error of each image skipped"""


class Result(NamedTuple):
    """Correctness of a classifier on each test image."""

    encoder: str
    feature: str
    right: npt.NDArray[np.bool_]
    """[splits m] whether each test image is classified correctly"""
    budget: dict[str, Any]
    """training labels: `per_class` or `percent`; empty: all"""
    more: dict[str, Any]
    """further columns of its row, such as hyperparameters chosen on the training set"""


def prefixed_log(log: Callable[[str], None], name: str) -> Callable[[str], None]:
    """Log function that prefixes lines with the encoder's `name`."""
    return lambda text: log(f"{name}: {text}")


def label_ranks(scores: Tensor, truth: npt.NDArray[np.int64]) -> Tensor:
    """Ranks [b] of the true classes `truth` [b]: number of classes that come before them.

    `scores` [b classes]; rank 0 is a correct prediction.  Higher scores come first, of equal ones
    the first class, as in argmax: a head that scores all classes alike is not always right.  NaN
    counts as a higher score.
    """
    own = torch.from_numpy(truth).to(scores.device)[:, None]
    score = scores.gather(1, own)
    is_first = torch.arange(scores.shape[1], device=scores.device) < own
    return (~(scores <= score) | ((scores == score) & is_first)).sum(1)


def ranking_result(
    encoder: str, feature: str, ranks: npt.NDArray[np.int64], classes: int, more: dict[str, Any]
) -> Result:
    """Result from the label ranks [m] of the test images, with top-5 accuracy where meaningful."""
    among: dict[str, Any] = {}
    if classes > TOP:
        share = float((ranks < TOP).mean())
        among = {"top5_accuracy": share, "top5_interval": list(wilson(share, len(ranks)))}
    return Result(encoder, feature, (ranks == 0)[None], {}, {**among, **more})


def result_rows(results: Sequence[Result], labels: npt.NDArray[np.int64], seed: int) -> list[dict]:
    """Rows of a report, one per result: accuracies, intervals, differences from the baselines.

    `labels` [m] are those of the test images; `seed` is that of the bootstrap.
    """
    with busy("computing intervals"):
        return _result_rows(results, labels, seed)


def _result_rows(results: Sequence[Result], labels: npt.NDArray[np.int64], seed: int) -> list[dict]:
    right_of = {(r.encoder, r.feature, str(r.budget)): r.right for r in results}
    rows = []
    for result in results:
        accuracies = result.right.mean(axis=1)
        deviation: dict[str, Any] = {"deviation": 0.0}
        if len(accuracies) > 1:
            varied = SPLITS if budget_name(result.budget) == "all" else DRAWS
            deviation = {"deviation": float(accuracies.std(ddof=1)), "deviation_of": varied}
        row: dict[str, Any] = {
            "encoder": result.encoder,
            "feature": result.feature,
            **result.budget,
            "accuracy": float(accuracies.mean()),
            "interval": list(share_right(result.right, seed)),
            "balanced_accuracy": balanced_accuracy(result.right.mean(axis=0), labels),
            **deviation,
            "only_class": only_class(result.right, labels),
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
    """Report of an evaluation: `facts`, provenance of the features, and result rows."""
    train, test = (
        EvaluatedImages(len(part.labels), part.metadata.get("data"), part.dropped())
        for part in (subject.train, subject.test)
    )
    return {
        **facts,
        "interval_rule": INTERVAL,
        "classes": len(np.unique(subject.train.labels)),
        **baseline(subject.test.labels, subject.test.class_names()),
        **provenance(subject.train.metadata, train, test),
        "results": rows,
    }


def baseline(labels: npt.NDArray[np.int64], names: Sequence[str] = ()) -> dict[str, Any]:
    """Entry of a report on the classifier that always answers the commonest class of the test."""
    label, accuracy = always_commonest(labels)
    known = {"class": label, "name": names[label] if label < len(names) else str(label)}
    interval = list(wilson(accuracy, len(labels)))
    share = 1 / len(np.unique(labels))
    return {
        BASELINE: known | {"accuracy": accuracy, "interval": interval, "balanced_accuracy": share}
    }


def provenance(
    encoder: Mapping[str, str], train: EvaluatedImages, test: EvaluatedImages
) -> dict[str, Any]:
    """Provenance of a report: data, skipped images, encoder, date and versions."""
    return {
        "train_images": train.images,
        "test_images": test.images,
        "train": {"data": train.data, "skipped": train.skipped},
        "test": {"data": test.data, "skipped": test.skipped},
        "encoder": {key: encoder.get(key) for key in (*SAME, "precision")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "mae": mae.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in PACKAGES},
        },
    }


def evaluated_images(images: Images, skipped: Sequence[str]) -> EvaluatedImages:
    """Evaluated part of shards: all images but those `skipped`."""
    manifest = images.manifest
    return EvaluatedImages(len(manifest) - len(skipped), manifest.fingerprint, list(skipped))


def budget_name(row: Mapping[str, Any]) -> str:
    """Label budget of a row in words: `10 per class`, `1 %` or `all`."""
    if row.get("per_class") is not None:
        return f"{row['per_class']} per class"
    return f"{row['percent']:g} %" if row.get("percent") is not None else "all"


def table(title: str, report: Mapping[str, Any]) -> str:
    """Text table of a report's results, followed by its notes."""
    rows: list[dict[str, Any]] = report["results"]
    others = list(dict.fromkeys(other for row in rows for other in row.get("above", ())))
    varied = [
        kind for kind in (SPLITS, DRAWS) if any(row.get("deviation_of") == kind for row in rows)
    ]
    is_ranked = any("top5_accuracy" in row for row in rows)
    heads = ["labels", "top-1", "95 %", *[f"top-{TOP}"] * is_ranked]
    heads += [f"± {kind}" for kind in varied] + ["balanced"]
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
    if constant := report.get(BASELINE):
        blank = [""] * (len(varied) + is_ranked)
        scores = [f"{constant['accuracy']:.1%}", percents(constant["interval"]), *blank]
        scores.append(f"{constant['balanced_accuracy']:.1%}")
        name = f"always {printable(constant['name'])}, the commonest"
        lines.append([name, "none", *scores, *[""] * len(others)])
    return "\n".join([*aligned(lines), *(f"note: {note}" for note in result_notes(report))])


def result_notes(report: Mapping[str, Any]) -> Iterator[str]:
    """Notes of a report: its own, then C at the edge of the candidates, then stopped fits."""
    yield from report.get("notes", ())
    edge, stopped, single = [], [], []
    for row in report["results"]:
        name = f"{row['encoder']} {row['feature']}, {budget_name(row)}"
        if any(row.get("at_edge", ())):
            pairs = zip(row["strengths"], row["at_edge"], strict=True)
            values = ", ".join(f"{c:g}" for c in sorted({c for c, is_edge in pairs if is_edge}))
            edge.append(f"{name} ({values})")
        if not all(row.get("converged", ())):
            stopped.append(name)
        if row.get("only_class") is not None:
            single.append(f"{name} (class {row['only_class']})")
    if edge:
        yield f"C at the edge of the candidates, one beyond may do better: {listed(edge)}"
    if single:
        yield f"right on all images of one class and on no other: {listed(single)}"
    if stopped:
        yield f"L-BFGS was stopped before it converged: {listed(stopped)}"


def listed(names: Sequence[str]) -> str:
    """First MOST_NAMED names, and the number of further ones."""
    more = f"; {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns padded to equal width, the first left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]


def percents(values: Sequence[float]) -> str:
    """Interval in per cent: `41.2–47.9`."""
    low, high = values
    return f"{100 * low:.1f}–{100 * high:.1f}"


def difference(found: Mapping[str, Any] | None) -> str:
    """Difference with its interval, in percentage points: `+8.9 (+6.1 to +11.7)`; "" for None."""
    if found is None:
        return ""
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
