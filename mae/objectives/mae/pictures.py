"""Sheet of `mae reconstruct` for a masked autoencoder: original, mask, prediction, error, R²."""

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.networks.patches import unpatchify
from mae.objectives.mae.chosen_masks import ChosenMask, choose_masks, grid_of
from mae.objectives.mae.masking import PatchSplit, binary_mask
from mae.objectives.mae.model import MaskedAutoencoder
from mae.objectives.mae.reconstruction import (
    FLAT,
    Explained,
    HiddenSums,
    explained,
    hidden_sums,
)
from mae.pictures.drawing import covered, displayable, heat_map, to_pil
from mae.pictures.reconstruction import (
    MeasuredImages,
    Numbers,
    ReconstructionReport,
    ReconstructionRequest,
    check_columns,
)
from mae.pictures.sheet import Cell, Scale, Sheet

COLUMNS = ("original", "masked", "reconstruction", "raw", "error")
COLUMNS_OF_SEVERAL = ("original", "masked", "reconstruction")
"""default columns where several mask ratios are drawn side by side"""

SPREAD = 2.0
"""raw output with `norm_pix_loss`: black is -SPREAD standard deviations, white +SPREAD"""

SCALE_QUANTILE = 0.98
"""share of the patches whose error lies within the colour scale"""

LEGEND = {
    "reconstruction": "reconstruction: hidden patches as predicted, visible ones pasted in.",
    "pixels": "raw: the prediction alone; visible patches, which the decoder does not predict, "
    "are blank.",
    "normalised": "raw: the prediction alone, normalised per patch: grey is the patch's mean, "
    "black and white are 2 standard deviations from it. It differs from the image because it has "
    "no brightness and contrast: the reconstruction takes them from the true patch. Visible "
    "patches, which the decoder does not predict, are blank.",
    "error": "error: mean squared error of each hidden patch, in the units of the loss; visible "
    "patches are blank.",
    "r2": "R²: share of the variance of the image's hidden pixels, in the units of the loss, that "
    "is explained; 1 is perfect.",
}


class Prediction(NamedTuple):
    """Predicted images [b c h w] in [0, 1] and their errors, on the CPU."""

    original: Tensor
    masked: Tensor
    """[b 3 h w]"""
    reconstruction: Tensor
    raw: Tensor
    """prediction alone; 0 at visible patches"""
    hidden: Tensor
    """bool [b n]"""
    error: Tensor
    """[b n] mean squared error of each hidden patch, in the units of the loss; NaN: visible"""
    r2: Tensor
    """[b] R² over each image's hidden values; NaN: not defined, they are all alike"""


def reconstruct(model: MaskedAutoencoder, request: ReconstructionRequest) -> ReconstructionReport:
    """Draw the sheet; R² of each mask beside trivial predictors.

    Raises UserError as `choose_masks`, `check_columns` and `explained`.
    """
    check_columns(request.columns, COLUMNS)
    masks = choose_masks(request.mask or "random", request.mask_ratios, model)
    columns = request.columns or (COLUMNS if len(masks) == 1 else COLUMNS_OF_SEVERAL)
    results = explained_by_mask(model, request.measured, masks)
    sheet = reconstruction_sheet(
        model,
        images=request.images,
        names=request.names,
        seeds=request.seeds,
        masks=masks,
        columns=columns,
        title=request.title,
    )
    rows = [
        {"mask": mask.pattern, "hidden": mask.hidden, **explained._asdict()}
        for mask, explained in zip(masks, results, strict=True)
    ]
    lines = [
        line
        for mask, explained in zip(masks, results, strict=True)
        for line in _table(mask, explained, model)
    ]
    return ReconstructionReport(sheet, {**results[0]._asdict(), "masks": rows}, lines)


def explained_by_mask(
    model: MaskedAutoencoder, measured: MeasuredImages, masks: Sequence[ChosenMask]
) -> list[Explained]:
    """R² for each of `masks`.  Raises UserError as `explained`."""

    def compute(images: Tensor, seeds: Tensor) -> Numbers:
        return np.stack([hidden_sums(model, images, seeds, mask.draw) for mask in masks])

    found = measured.each(compute)
    totals = sum(batch.numbers for batch in found)
    assert not isinstance(totals, int)  # there is an image
    count = sum(batch.images for batch in found)
    return [explained(HiddenSums.of(row, count)) for row in totals]


def _table(mask: ChosenMask, explained: Explained, model: MaskedAutoencoder) -> list[str]:
    head = f"R² on hidden patches of {explained.images} images, {mask.hidden:.0%} hidden"
    if explained.model is None:
        return [f"{head}: not defined, the hidden pixels are all alike"]
    remark = "0 by definition" if model.norm_pix_loss else "uses the true mean"
    return [
        head,
        f"  {'model':34}{explained.model:7.3f}",
        f"  {'interpolation of visible patches':34}{explained.interpolation:7.3f}",
        f"  {'mean of each hidden patch':34}{explained.patch_mean:7.3f}  ({remark})",
    ]


@torch.no_grad()
def reconstruct_images(model: MaskedAutoencoder, images: Tensor, split: PatchSplit) -> Prediction:
    """Predict the hidden patches of integer images [b c h w] on the model's device."""
    patches = model.patchify(images)
    prediction = model.predict(patches, split).float()
    target = model.target(patches, split.ids_masked)
    squared = (prediction - target).square()
    variance = (target - target.mean(dim=(1, 2), keepdim=True)).square().mean(dim=(1, 2))
    hidden = binary_mask(split).bool()
    error = torch.full(hidden.shape, torch.nan, device=hidden.device)
    error.scatter_(1, split.ids_masked, squared.mean(dim=2))

    pasted, mask, _ = model.reconstruct(images, split)
    assert mask is not None
    original, shown = displayable(images), displayable(images, pasted)
    raw = shown * mask
    if model.norm_pix_loss:
        ids = split.ids_masked[:, :, None].expand_as(prediction)
        units = torch.zeros_like(patches, dtype=torch.float32).scatter(1, ids, prediction)
        raw = unpatchify(units / (2 * SPREAD) + 0.5, model.img_size, model.patch_size) * mask
    return Prediction(
        original=original.cpu(),
        masked=covered(original, mask).cpu(),
        reconstruction=shown.cpu(),
        raw=raw.clamp(0, 1).cpu(),
        hidden=hidden.cpu(),
        error=error.cpu(),
        r2=(1 - squared.mean(dim=(1, 2)) / variance.masked_fill(variance < FLAT**2, nan)).cpu(),
    )


def reconstruction_sheet(
    model: MaskedAutoencoder,
    images: Tensor,
    names: Sequence[str],
    seeds: Tensor,
    masks: Sequence[ChosenMask],
    columns: Sequence[str],
    title: str,
) -> Sheet:
    """Sheet with a row for each image and the columns of each mask; the original comes once."""
    predictions = [reconstruct_images(model, images, mask.draw(images, seeds)) for mask in masks]
    errors = torch.cat([one.error[one.hidden] for one in predictions])
    top = max(torch.quantile(errors, SCALE_QUANTILE).item(), 1e-6)
    grid = grid_of(model)
    heads: list[str] = []
    rows: list[list[Cell]] = [[] for _ in names]
    if "original" in columns:
        heads.append("original")
        for row, name, picture in zip(rows, names, predictions[0].original, strict=True):
            row.append(Cell(to_pil(picture), name))
    for mask, prediction in zip(masks, predictions, strict=True):
        for column in columns:
            if column == "original":
                continue
            heads.append(f"{column}, {mask.hidden:.0%}" if len(masks) > 1 else column)
            for number, row in enumerate(rows):
                row.append(_cell(column, prediction, number, top, grid))
    return Sheet(title, heads, rows, _notes(model, masks, columns), _scale(model, columns, top))


def _cell(
    column: str, prediction: Prediction, number: int, top: float, grid: tuple[int, int]
) -> Cell:
    h, w = prediction.original.shape[-2:]
    if column == "masked":
        return Cell(to_pil(prediction.masked[number]))
    if column == "reconstruction":
        r2 = prediction.r2[number]
        shown = "R² –: hidden pixels all alike" if r2.isnan() else f"R² {r2:.2f}"
        return Cell(to_pil(prediction.reconstruction[number]), shown)
    if column == "raw":
        picture = to_pil(prediction.raw[number])
        alpha = (prediction.hidden[number].view(grid).byte() * 255).numpy()
        picture.putalpha(Image.fromarray(alpha).resize((w, h), Image.Resampling.NEAREST))
        return Cell(picture)
    error = prediction.error[number]
    return Cell(heat_map(error.view(grid), top, (h, w)), f"mean {error.nanmean():.2f}")


def _notes(
    model: MaskedAutoencoder, masks: Sequence[ChosenMask], columns: Sequence[str]
) -> list[str]:
    shares = ", ".join(f"{mask.hidden:.0%}" for mask in masks)
    hidden = f"{shares} of the patches are hidden ({masks[0].pattern})."
    trained = f"The model was trained with {model.mask_ratio:.0%} hidden."
    notes = [f"{hidden} {trained}"]
    if "reconstruction" in columns:
        notes += [LEGEND["reconstruction"], LEGEND["r2"]]
    if "raw" in columns:
        notes.append(LEGEND["normalised" if model.norm_pix_loss else "pixels"])
    if "error" in columns:
        notes.append(LEGEND["error"])
    return notes


def _scale(model: MaskedAutoencoder, columns: Sequence[str], top: float) -> Scale | None:
    if "error" not in columns:
        return None
    meaning = "error of a patch"
    if model.norm_pix_loss:
        meaning += "; 1 is the error of predicting its mean"
    return Scale(meaning, "0", f"{top:.2g} and more")
