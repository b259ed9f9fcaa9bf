"""Judgement of generated images against real ones in the features of a judge.

Each set of images (samples, baselines) gets its Fréchet distance from real images, the accuracy
of a 1-NN classifier that separates it from them, and its distances to training images.  Real
images that are compared with other real ones, as many, give the floor of all three.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.hashing import fold
from mae.evaluation.confidence import wilson
from mae.generation.distances import (
    FeatureRows,
    Nearest,
    copying,
    frechet_distance,
    nearest_rows,
    total_variance,
    two_sample,
)

SPLITS = 5
"""random halves of the real images that each figure is a mean over"""

LEAST = 8
"""smallest number of images that is judged"""

FLOOR = "real images"
"""name of the real images that the floor comes from"""

FEW = 100
"""images below which figures are mostly chance"""

NEIGHBOURS = 2
"""nearest training images that are kept of each image"""


class Judged(NamedTuple):
    """Result of `judge`."""

    report: dict[str, Any]
    """JSON object"""
    nearest: dict[str, Nearest]
    """nearest training images of each set; empty where there are no training images"""


def judge(
    sets: Mapping[str, FeatureRows],
    real: FeatureRows,
    train: FeatureRows | None = None,
    *,
    seed: int = 0,
    ceilings: Sequence[str] = (),
) -> Judged:
    """Judge `sets` of feature vectors [m d], the generated images first, then baselines.

    `ceilings`: sets that are no baselines, and expected to be better; `real` [r d]: held-out real
    images, at least 2 · LEAST; `train` [n d]: training images.
    """
    count = min(len(real) // 2, *map(len, sets.values()))
    spread = total_variance(real)
    halves = [_halves(len(real), count, seed, split) for split in range(SPLITS)]
    rows = {FLOOR: _row([(real[a], real[b]) for a, b in halves], spread)}
    for name, vectors in sets.items():
        chosen = [_chosen(len(vectors), count, seed, split) for split in range(SPLITS)]
        pairs = [(real[a], vectors[c]) for (a, _), c in zip(halves, chosen, strict=True)]
        rows[name] = _row(pairs, spread)
    nearest = {}
    if train is not None:
        held_out = nearest_rows(real, train).distances[:, 0]
        middle = float(np.median(held_out))
        rows[FLOOR]["nearest_train"] = {"median": middle, "ratio": 1.0 if middle else None}
        for name, vectors in sets.items():
            nearest[name] = nearest_rows(vectors, train, NEIGHBOURS)
            own = nearest[name].distances[:, 0]
            rows[name]["nearest_train"] = {
                "median": float(np.median(own)),
                **copying(own, held_out, seed)._asdict(),
            }
    report = {
        "real_images": len(real),
        "train_images": None if train is None else len(train),
        "images_per_comparison": count,
        "splits": SPLITS,
        "features": real.shape[1],
        "rows": rows,
        "findings": findings(
            {name: row for name, row in rows.items() if name not in ceilings},
            count,
            real.shape[1],
        ),
    }
    return Judged(report, nearest)


def _halves(
    real: int, count: int, seed: int, split: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    order = np.argsort(fold(seed, split, np.arange(real)), kind="stable")
    return order[:count], order[count : 2 * count]


def _chosen(total: int, count: int, seed: int, split: int) -> npt.NDArray[np.int64]:
    return np.argsort(fold(seed + 1, split, np.arange(total)), kind="stable")[:count]


def _row(pairs: Sequence[tuple[FeatureRows, FeatureRows]], spread: float) -> dict[str, Any]:
    """Means over the splits; ranges of the distance, interval of the accuracy."""
    distances = [frechet_distance(*pair) / (spread or 1.0) for pair in pairs]
    found = np.mean([two_sample(*pair) for pair in pairs], axis=0)
    accuracy = float(found[0])
    return {
        "distance": float(np.mean(distances)),
        "distances": distances,
        "one_nn_accuracy": accuracy,
        "one_nn_interval": list(wilson(accuracy, 2 * len(pairs[0][0]))),
        "one_nn_real": float(found[1]),
        "one_nn_generated": float(found[2]),
    }


class Standing(NamedTuple):
    """Measures in which generated images do not clearly beat a baseline, in words."""

    behind: list[str]
    level: list[str]


def compared(own: Mapping[str, Any], other: Mapping[str, Any]) -> Standing:
    """Compare two rows: the distance in each split, and the intervals of the 1-NN accuracy."""
    behind, level = [], []
    pairs = list(zip(own["distances"], other["distances"], strict=True))
    words = f"distance {other['distance']:.3f} against {own['distance']:.3f}"
    if all(theirs < ours for ours, theirs in pairs):
        behind.append(words)
    elif any(theirs <= ours for ours, theirs in pairs):
        level.append(words)
    far = [sorted(abs(end - 0.5) for end in one["one_nn_interval"]) for one in (own, other)]
    words = f"1-NN {other['one_nn_accuracy']:.1%} against {own['one_nn_accuracy']:.1%}"
    if far[1][1] < far[0][0]:
        behind.append(words)
    elif far[1][0] <= far[0][1]:
        level.append(words)
    return Standing(behind, level)


def findings(rows: Mapping[str, Mapping[str, Any]], count: int, features: int) -> list[str]:
    """Remarks on the rows of a report: the floor first, then the generated images, then baselines.

    `count`: images per comparison.
    """
    _, generated, *baselines = rows
    own, found = rows[generated], []
    if count < FEW:
        found.append(f"only {count} images per comparison: the figures are mostly chance")
    elif count <= features:
        found.append(
            f"{count:,} images for {features:,} features: the distance is mostly that of few "
            "images; compare it with the floor alone"
        )
    for name in baselines:
        standing = compared(own, rows[name])
        for measure in standing.behind:
            found.append(f"the baseline {name} wins over the {generated}: {measure}")
        if standing.level:
            found.append(
                f"no clear difference between the {generated} and the baseline {name}: "
                f"{' and '.join(standing.level)}"
            )
    memory = own.get("nearest_train")
    if memory and memory["interval"][0] > 0.5:
        found.append(
            f"in {memory['nearer']:.0%} of the pairs of one of the {generated} and a held-out "
            "image, the former is nearer to the training images: memorised, or blurred and thus "
            "near to many"
        )
    if memory and memory["ratio"] is None:
        found.append(
            "half of the held-out images or more equal a training image: distances to the nearest "
            "one say nothing; compare with images that were not trained on"
        )
    if memory and memory["equal"]:
        found.append(f"{memory['equal']:,} of the {generated} equal a training image")
    return found


HEADS = ("distance", "(splits)", "1-NN real/generated", "nearest training image")


def judgement_table(report: Mapping[str, Any], judge: str) -> list[str]:
    """Lines that show a report of `judge`, of the judge with the name `judge`."""
    rows: Mapping[str, Mapping[str, Any]] = report["rows"]
    width = max(map(len, rows)) + 2
    lines = [
        f"judged by: {judge} ({report['features']:,} features; no FID, comparable only within "
        f"this table), {report['images_per_comparison']:,} images against as many real ones",
        f"{'':{width}}{HEADS[0]:>9} {HEADS[1]:>15}   {HEADS[2]:<24}{HEADS[3]}",
    ]
    for name, row in rows.items():
        low, high = min(row["distances"]), max(row["distances"])
        accuracy, interval = row["one_nn_accuracy"], row["one_nn_interval"]
        near = row.get("nearest_train")
        memory = ""
        if near:
            memory = _times(near["ratio"])
            if "nearer" in near:
                ends = "–".join(f"{end:.0%}"[:-1] for end in near["interval"])
                memory += f", nearer than held-out in {near['nearer']:.0%} ({ends}) of pairs"
        ends = "–".join(f"{end:.1%}"[:-1] for end in interval)
        lines.append(
            f"{name:{width}}{row['distance']:9.3f} {f'({low:.3f}–{high:.3f})':>15}   "
            f"{f'{accuracy:.1%} ({ends})':<24}{memory}"
        )
    return lines


def judgement_notes(report: Mapping[str, Any], judge: str) -> list[str]:
    """Notes below a sheet: the figures of the generated images, the floor and the baselines."""
    rows: Mapping[str, Mapping[str, Any]] = report["rows"]
    distances = ", ".join(f"{name} {row['distance']:.3f}" for name, row in rows.items())
    accuracies = ", ".join(f"{name} {row['one_nn_accuracy']:.1%}" for name, row in rows.items())
    notes = [
        f"Judged by: {judge}; {report['images_per_comparison']:,} images against as many real "
        "ones.",
        f"Fréchet distance, as a share of the variance of the real images (no FID): {distances}.",
        f"1-NN real against generated, 50 % is ideal: {accuracies}.",
    ]
    near = {name: row["nearest_train"] for name, row in rows.items() if "nearest_train" in row}
    if near:
        ratios = ", ".join(f"{name} {_times(one['ratio'])}" for name, one in near.items())
        notes.append(f"Distance to the nearest training image: {ratios}.")
    return [*notes, *(f"Note: {line}." for line in report["findings"])]


def _times(ratio: float | None) -> str:
    return "no ratio" if ratio is None else f"x {ratio:.2f}"
