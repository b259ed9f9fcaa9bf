"""Report of `mae segment`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mae.base.errors import UserError
from mae.data.images import Images
from mae.evaluation.encoders import FrozenEncoder
from mae.evaluation.feature_cache import identity
from mae.evaluation.results import (
    TRAINED_ENCODERS,
    aligned,
    difference,
    evaluated_images,
    percents,
    prefixed_log,
    provenance,
)
from mae.evaluation.segmentation import (
    ITERATIONS,
    PATCHES,
    EncoderEvaluation,
    MaskedImages,
    evaluate_encoder,
)
from mae.evaluation.segmentation_masks import Counts, Masks, Quality, compare, quality, score_counts

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
    "95 %, percentile bootstrap over the test images, 1,000 resamples; differences: the same "
    "images drawn for both encoders"
)


def segmentation_report(
    encoders: Mapping[str, FrozenEncoder],
    patch_size: tuple[int, int],
    train: Images,
    test: Images,
    *,
    patches: int = PATCHES,
    seed: int = 0,
    max_bad: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Mean IoU and accuracy of a linear classifier and of k-NN, for patches and for pixels.

    `encoders` by name: the evaluated one first, then the untrained.  Raises UserError where an
    image has no mask, more than `max_bad` of either data set do not decode or have bad masks, or
    test masks have a class that training masks lack.
    """
    both = MaskedImages(train, Masks(train, "--train")), MaskedImages(test, Masks(test, "--test"))
    known, tested = (part.masks.classes() for part in both)
    if len(unknown := np.setdiff1d(tested, known)):
        raise UserError(f"--test: class {unknown[0]} of the masks does not occur in --train")
    if len(known) < 2:
        raise UserError(f"--train: masks of {len(known)} class; the probe needs two classes")
    evaluations: dict[str, EncoderEvaluation] = {}
    for name, encoder in encoders.items():
        evaluations[name] = evaluate_encoder(
            encoder,
            patch_size,
            *both,
            int(known.max()) + 1,
            patches=patches,
            seed=seed,
            max_bad=max_bad,
            device=device,
            workers=workers,
            log=prefixed_log(log, name),
        )
    ours = next(iter(evaluations.values()))
    train_part, test_part = (
        evaluated_images(p.images, bad) for p, bad in zip(both, ours.skipped, strict=True)
    )
    return {
        "measures": MEASURES,
        "protocol": PROTOCOL,
        "selection": SELECTION,
        "interval_rule": INTERVAL,
        "patches": len(ours.fitted),
        "patch_size": list(patch_size),
        "seed": seed,
        "notes": [note for name, found in evaluations.items() for note in fit_notes(name, found)],
        "classes": known.tolist(),
        **provenance(identity(next(iter(encoders.values())), train), train_part, test_part),
        "results": segmentation_rows(evaluations, seed),
        "always_commonest": commonest(ours.fitted, ours.counts["linear", "pixels"]),
        "iou_by_class": by_class(ours.counts["linear", "pixels"], known),
    }


def segmentation_rows(
    evaluations: Mapping[str, EncoderEvaluation], seed: int
) -> list[dict[str, Any]]:
    """Rows of the report: one for each encoder, classifier and unit (patches or pixels)."""
    rows = []
    for name, (counts, linear, _, _) in evaluations.items():
        for (classifier, of), found in counts.items():
            row: dict[str, Any] = {"encoder": name, "classifier": classifier, "of": of}
            row |= score_counts(found, seed)._asdict()
            if classifier == "linear":
                row |= {"strength": linear.strength, "at_edge": linear.at_edge}
                row |= {"iterations": linear.iterations}
                row |= {"converged": linear.iterations < ITERATIONS}
            if name in TRAINED_ENCODERS:
                others = {key: part.counts for key, part in evaluations.items() if key != name}
                row["above"] = {
                    key: compare(found, other[classifier, of], seed)
                    for key, other in others.items()
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


def commonest(classes: npt.NDArray[np.int64], counts: Counts) -> dict[str, float]:
    """Mean IoU and accuracy of always predicting the commonest class of training patches."""
    total = counts.sum(axis=0)
    guess, true = np.bincount(classes).argmax(), total[:, 2]
    constant = np.zeros_like(total)
    constant[:, 2] = true
    constant[guess] = true[guess], true.sum(), true[guess]
    found: Quality = quality(constant)
    return found._asdict()


def by_class(counts: Counts, known: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """IoU of each class; None for classes neither predicted nor true in any test image."""
    right, predicted, true = counts.sum(axis=0).T
    union = predicted + true - right
    return {str(c): float(right[c] / union[c]) if union[c] else None for c in known.tolist()}


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
    return "\n".join([*aligned(lines), *(f"note: {note}" for note in report["notes"])])
