"""Report of `mae segment`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mae.base.portion import ALONE, Portion
from mae.data.images import Images
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.feature_cache import identity
from mae.evaluation.image_counts import ImageCounts
from mae.evaluation.mask_classes import MaskOptions
from mae.evaluation.results import (
    TRAINED_ENCODERS,
    aligned,
    difference,
    evaluated_images,
    percents,
    provenance,
)
from mae.evaluation.segmentation import LINEAR, OF_PIXELS, PATCHES, EncoderEvaluation
from mae.evaluation.segmentation_classes import class_notes, class_rows, class_table
from mae.evaluation.segmentation_classifiers import ITERATIONS
from mae.evaluation.segmentation_masks import REFUSE, SKIP, Masks
from mae.evaluation.segmentation_probe import SegmentSettings, segment_with
from mae.evaluation.segmentation_scores import Quality, compare, quality, resample, score_counts

MEASURES = "class information in single frozen patch tokens"
PROTOCOL = (
    "linear classifier and k-NN (20 neighbours, temperature 0.07) on frozen patch tokens; a patch "
    "has the class of most of its pixels; at pixels, scores interpolated"
)
SELECTION = (
    "C (penalty) by mean IoU on a tenth of the training images; refitted to all; the test set used "
    "once"
)
INTERVAL = (
    "95 %, BCa bootstrap over the test images (Efron and Tibshirani 1993), 1,000 resamples; mean "
    "IoU of resamples without a rare class both without it and with its IoU over all images; "
    "differences: the same images drawn for both encoders"
)


def segmentation_report(
    encoders: Mapping[str, FrozenEncoder],
    patch_size: tuple[int, int],
    train: Images,
    test: Images,
    *,
    out: Path,
    options: MaskOptions | None = None,
    unmasked: str = REFUSE,
    patches: int = PATCHES,
    seed: int = 0,
    max_bad: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    portion: Portion = ALONE,
    log: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Mean IoU and accuracy of a linear classifier and of k-NN, for patches and for pixels.

    Arguments and errors as of `segment_with`; None in the processes that do not join.
    """
    settings = SegmentSettings(options or MaskOptions(), unmasked, patches, seed, max_bad)
    done = segment_with(
        encoders,
        patch_size,
        train,
        test,
        settings,
        out=out,
        device=device,
        workers=workers,
        portion=portion,
        log=log,
    )
    if done is None:
        return None
    evaluations, classes, masks = done.evaluations, done.classes, done.masks
    ours = next(iter(evaluations.values()))
    train_part, test_part = (
        evaluated_images(masked.images, bad)._replace(images=len(masked.samples) - len(bad))
        for masked, bad in zip((done.train, done.test), ours.skipped, strict=True)
    )
    rows = class_rows(evaluations, classes)
    known_encoder = identity(next(iter(encoders.values())), train)
    known_encoder["precision"] = "computed in float32"  # not from the cache
    notes = [*mask_notes(masks, ours.skipped), *class_notes(rows)]
    drawn, total = len(done.train.samples), len(done.train.masks.samples)
    if drawn < total:
        notes.append(
            f"training patches are from {drawn:,} of {total:,} images, one of each; more --patches "
            "draw more"
        )
    notes += [note for name, found in evaluations.items() for note in fit_notes(name, found)]
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": SELECTION,
        "interval_rule": INTERVAL,
        "masks": {"reading": classes.reading, "about": classes.about, "void": classes.void},
        "without_mask": {m.key.strip("-"): len(m.missing) for m in masks},
        "patches": len(ours.fitted.classes),
        "patch_size": list(patch_size),
        "seed": seed,
        "notes": notes,
        "classes": [classes.numbers[c] for c in done.known],
        **provenance(known_encoder, train_part, test_part),
        "results": segmentation_rows(evaluations, seed),
        "always_commonest": commonest(ours.fitted.classes, ours.counts[LINEAR, OF_PIXELS]),
        "iou_by_class": {str(row["class"]): row["iou"] for row in rows},
        "by_class": rows,
    }


def segmentation_rows(
    evaluations: Mapping[str, EncoderEvaluation], seed: int
) -> list[dict[str, Any]]:
    """Rows of the report: one for each encoder, classifier and unit (patches or pixels)."""
    keys = [(name, key) for name, found in evaluations.items() for key in found.counts]
    parts = [evaluations[name].counts[key] for name, key in keys]
    resampled = dict(zip(keys, resample(parts, seed), strict=True))
    rows = []
    for (name, (classifier, of)), found in resampled.items():
        linear = evaluations[name].linear
        row: dict[str, Any] = {"encoder": name, "classifier": classifier, "of": of}
        row |= score_counts(found)._asdict()
        if classifier == LINEAR:
            row |= {"strength": linear.strength, "at_edge": linear.at_edge}
            row |= {"iterations": linear.iterations}
            row |= {"converged": linear.iterations < ITERATIONS}
        if name in TRAINED_ENCODERS:
            row["above"] = {
                other: compare(found, resampled[other, (classifier, of)])
                for other in evaluations
                if other != name
            }
        rows.append(row)
    return rows


def fit_notes(name: str, found: EncoderEvaluation) -> list[str]:
    """Notes on the fit of the linear classifier: C at the edge, or stopped early."""
    notes = []
    if found.linear.at_edge:
        edge = f"C = {found.linear.strength:g} is at the edge of the candidates"
        notes.append(f"{name} linear: {edge}; one beyond may do better")
    if found.linear.iterations >= ITERATIONS:
        notes.append(f"{name} linear: L-BFGS was stopped before it converged")
    return notes


def commonest(classes: npt.NDArray[np.int64], counts: ImageCounts) -> dict[str, float]:
    """Mean IoU and accuracy of always predicting the commonest class of training patches."""
    total = counts.total()
    guess, true = np.bincount(classes).argmax(), total[:, 2]
    constant = np.zeros_like(total)
    constant[:, 2] = true
    constant[guess] = true[guess], true.sum(), true[guess]
    found: Quality = quality(constant)
    return found._asdict()


def mask_notes(masks: Sequence[Masks], skipped: Sequence[Sequence[str]]) -> Iterator[str]:
    """Notes on images without a mask, and on bad ones."""
    for part, bad in zip(masks, skipped, strict=True):
        all_images = f"of {len(part.manifest):,} images"
        if len(part.missing):
            treated = "skipped" if part.unmasked == SKIP else "taken for background"
            yield f"{part.key}: {len(part.missing):,} {all_images} have no mask: {treated}"
        if bad:
            yield f"{part.key}: {len(bad):,} {all_images} skipped, they or their masks are bad"


def segmentation_table(report: dict[str, Any]) -> str:
    """Text table of the report, followed by its notes."""
    rows = report["results"]
    others = list(dict.fromkeys(other for row in rows for other in row.get("above", ())))
    heads = ["mean IoU", "95 %", *(f"above {other}" for other in others), "accuracy", "95 %"]
    lines = [["dense, frozen tokens", *heads]]
    for row in rows:
        above = row.get("above", {})
        pairs = [
            {"difference": found["mean_iou_difference"], "interval": found["mean_iou_interval"]}
            if (found := above.get(other))
            else None
            for other in others
        ]
        lines.append(
            [
                f"{row['encoder']} {row['classifier']}, {row['of']}",
                f"{row['mean_iou']:.1%}",
                percents(row["mean_iou_interval"]),
                *map(difference, pairs),
                f"{row['accuracy']:.1%}",
                percents(row["accuracy_interval"]),
            ]
        )
    floor = report["always_commonest"]
    blank = ["", *[""] * len(others)]
    scores = [f"{floor['mean_iou']:.1%}", *blank, f"{floor['accuracy']:.1%}", ""]
    lines.append(["always the commonest", *scores])
    notes = (f"note: {note}" for note in report["notes"])
    return "\n".join([*aligned(lines), "", *class_table(report["by_class"]), *notes])
