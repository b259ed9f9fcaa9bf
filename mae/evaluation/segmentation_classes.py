"""Classes of `mae segment`: how much of each there is, and how well it is found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mae.evaluation.mask_classes import MaskClasses
from mae.evaluation.mask_survey import listed
from mae.evaluation.results import aligned
from mae.evaluation.segmentation import LINEAR, OF_PIXELS, EncoderEvaluation
from mae.evaluation.segmentation_scores import class_ious

FEW = 10
"""number of test images with a class below which the intervals are said to be too narrow"""

MOST_ROWS = 30
"""maximum number of classes in the printed table"""


def class_rows(
    evaluations: Mapping[str, EncoderEvaluation], classes: MaskClasses
) -> list[dict[str, Any]]:
    """Row of each class: how much of it there is, and its IoU at pixels by linear classifiers.

    `predicted`: number of test pixels that the evaluated encoder's classifier takes for it.
    IoU is None for a class neither predicted nor true in any test image.  `always`: IoU of
    predicting this class everywhere, which is its share of the pixels.
    """
    ours = next(iter(evaluations.values()))
    key = LINEAR, OF_PIXELS
    _, predicted, true = ours.counts[key].total().T
    share, images = true / max(1, true.sum()), ours.counts[key].images_with()
    ious = {name: class_ious(found.counts[key].total()) for name, found in evaluations.items()}
    shown = {
        name: [None if np.isnan(iou) else float(iou) for iou in of] for name, of in ious.items()
    }
    first, *others = shown
    return [
        {
            "class": number,
            "name": classes.names[c],
            "train_patches": int((ours.fitted.classes == c).sum()),
            "predicted": int(predicted[c]),
            "train_images": len(np.unique(ours.fitted.images[ours.fitted.classes == c])),
            "test_share": float(share[c]),
            "test_images": int(images[c]),
            "iou": shown[first][c],
            "baselines": {name: shown[name][c] for name in others},
            "always": float(share[c]),
        }
        for c, number in enumerate(classes.numbers)
    ]


def class_notes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Notes on classes that are absent or hardly there."""
    absent = [row["name"] for row in rows if not row["test_images"]]
    rare = [row["name"] for row in rows if 0 < row["test_images"] < FEW]
    never = [row["name"] for row in rows if not row["train_patches"]]
    if absent:
        yield f"not in the masks of --test, so not measured: {listed(absent)}"
    if rare:
        yield f"in fewer than {FEW} test images, so intervals are too narrow: {listed(rare)}"
    missed = [r["name"] for r in rows if r["train_patches"] and not r["predicted"]]
    if missed:
        yield f"predicted at no test pixel by the linear classifier: {listed(missed)}"
    if never:
        yield f"in no patch drawn from --train the commonest, so never predicted: {listed(never)}"


def class_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of the classes, where there are many those of the lowest IoU."""
    others = list(rows[0]["baselines"])
    heads = ["train patches", "in images", "test pixels", "in images"]
    heads += ["IoU, linear", *others, "always this"]
    lines = [["class", *heads]]
    shown = sorted(rows, key=lambda row: row["iou"] or 0) if len(rows) > MOST_ROWS else rows
    for row in shown[:MOST_ROWS]:
        ious = [row["iou"], *(row["baselines"][other] for other in others), row["always"]]
        lines.append(
            [
                row["name"],
                f"{row['train_patches']:,}",
                f"{row['train_images']:,}",
                f"{row['test_share']:.2%}",
                f"{row['test_images']:,}",
                *("–" if iou is None else f"{iou:.1%}" for iou in ious),
            ]
        )
    more = [f"the {MOST_ROWS} classes of lowest IoU of {len(rows)}; all in the JSON file"]
    return [*aligned(lines), *(more if len(rows) > MOST_ROWS else [])]
