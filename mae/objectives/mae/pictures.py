"""`mae reconstruct` of a masked autoencoder: original, hidden, predicted, error, and R²."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mae.networks.pixels import unpatchify
from mae.objectives.mae.chosen_masks import ChosenMask, choose_masks, grid_of
from mae.objectives.mae.masking import PatchSplit, binary_mask
from mae.objectives.mae.model import MaskedAutoencoder
from mae.objectives.mae.reconstruction import Explained, explained_variance
from mae.pictures.drawing import HIDDEN, displayable, heat_map, to_pil
from mae.pictures.reconstruction import BATCH, ReconstructionReport, ReconstructionRequest
from mae.pictures.sheet import Cell, Scale, Sheet

COLUMNS = ("original", "masked", "reconstruction", "raw", "error")
OF_SEVERAL = ("original", "masked", "reconstruction")
"""columns where several mask ratios stand side by side"""

SPREAD = 2.0
"""the raw output of a model of normalised pixels: black is -SPREAD deviations, white +SPREAD"""

USUAL_MOST = 0.98
"""share of the patches whose error lies within the scale"""

EXPLAINED = {
    "reconstruction": "reconstruction: hidden patches as predicted, visible ones pasted in.",
    "pixels": "raw: the prediction alone; visible patches, of which the decoder is never asked, "
    "are left blank.",
    "normalised": "raw: the prediction alone, in the units it is made in: each patch minus its own "
    "mean, over its own deviation, so that grey is the patch's mean and black and white are 2 "
    "deviations off. It looks unlike the image because brightness and contrast are no part of it: "
    "the reconstruction takes them from the true patch. Visible patches, of which the decoder is "
    "never asked, are left blank.",
    "error": "error: mean squared error of each hidden patch, in the units of the loss; visible "
    "patches are left blank.",
    "r2": "R²: share of the variance of the image's hidden pixels, in the units of the loss, that "
    "is explained; 1 is perfect.",
}


class Predicted(NamedTuple):
    """Pictures [b c h w] in [0, 1], and numbers; all on the CPU."""

    original: Tensor
    masked: Tensor
    reconstruction: Tensor
    raw: Tensor
    """the prediction without visible patches (0 there)"""
    hidden: Tensor
    """bool [b n]"""
    error: Tensor
    """[b n] mean squared error of each hidden patch, in the units of the loss; NaN: visible"""
    r2: Tensor
    """[b] over each image's hidden values"""


def reconstruct(model: MaskedAutoencoder, request: ReconstructionRequest) -> ReconstructionReport:
    """Sheet, and R² of each mask beside trivial predictors.

    Raises UserError as `choose_masks` does.
    """
    masks = choose_masks(request.mask or "random", request.mask_ratios, model)
    columns = request.columns or (COLUMNS if len(masks) == 1 else OF_SEVERAL)
    images, seeds, count = request.images, request.seeds, request.count
    sheet = reconstruction_sheet(
        model, images[:count], request.names[:count], seeds[:count], masks, columns, request.title
    )
    measured = images[: request.measured].split(BATCH), seeds[: request.measured].split(BATCH)
    pairs = list(zip(*measured, strict=True))
    found = [explained_variance(model, pairs, mask.draw) for mask in masks]
    rows = [
        {"mask": mask.pattern, "hidden": mask.hidden, **explained._asdict()}
        for mask, explained in zip(masks, found, strict=True)
    ]
    lines = [
        line
        for mask, explained in zip(masks, found, strict=True)
        for line in _table(mask, explained, model)
    ]
    return ReconstructionReport(sheet, {**found[0]._asdict(), "masks": rows}, lines)


def _table(mask: ChosenMask, explained: Explained, model: MaskedAutoencoder) -> list[str]:
    given = "0 by definition" if model.norm_pix_loss else "told, no model could be"
    return [
        f"R² on hidden patches of {explained.images} images, {mask.hidden:.0%} hidden",
        f"  {'model':34}{explained.model:7.3f}",
        f"  {'interpolation of visible patches':34}{explained.interpolation:7.3f}",
        f"  {'mean of each hidden patch':34}{explained.patch_mean:7.3f}  ({given})",
    ]


@torch.no_grad()
def reconstruct_images(model: MaskedAutoencoder, images: Tensor, split: PatchSplit) -> Predicted:
    """Predict the hidden patches of integer images [b c h w] on the model's device."""
    patches = model.patchify(images)
    prediction = model.predict(patches, split).float()
    target = model.target(patches, split.ids_masked)
    squared = (prediction - target).square()
    deviation = (target - target.mean(dim=(1, 2), keepdim=True)).square().sum(dim=(1, 2))
    hidden = binary_mask(split).bool()
    error = torch.full(hidden.shape, torch.nan, device=hidden.device)
    error.scatter_(1, split.ids_masked, squared.mean(dim=2))

    pasted, mask = model.reconstruct(images, split)
    assert mask is not None
    original, shown = displayable(images), displayable(images, pasted)
    raw = shown * mask
    if model.norm_pix_loss:
        ids = split.ids_masked[:, :, None].expand_as(prediction)
        units = torch.zeros_like(patches, dtype=torch.float32).scatter(1, ids, prediction)
        raw = unpatchify(units / (2 * SPREAD) + 0.5, model.img_size, model.patch_size) * mask
    return Predicted(
        original=original.cpu(),
        masked=(original * (1 - mask) + HIDDEN * mask).cpu(),
        reconstruction=shown.cpu(),
        raw=raw.clamp(0, 1).cpu(),
        hidden=hidden.cpu(),
        error=error.cpu(),
        r2=(1 - squared.sum(dim=(1, 2)) / deviation.clamp(min=1e-12)).cpu(),
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
    """A row for each image; of several masks the columns follow each other, the original once."""
    made = [reconstruct_images(model, images, mask.draw(images, seeds)) for mask in masks]
    errors = torch.cat([one.error[one.hidden] for one in made])
    top = max(torch.quantile(errors, USUAL_MOST).item(), 1e-6)
    grid = grid_of(model)
    heads: list[str] = []
    rows: list[list[Cell]] = [[] for _ in names]
    if "original" in columns:
        heads.append("original")
        for row, name, picture in zip(rows, names, made[0].original, strict=True):
            row.append(Cell(to_pil(picture), name))
    for mask, one in zip(masks, made, strict=True):
        for column in columns:
            if column == "original":
                continue
            heads.append(f"{column}, {mask.hidden:.0%}" if len(masks) > 1 else column)
            for number, row in enumerate(rows):
                row.append(_cell(column, one, number, top, grid))
    return Sheet(title, heads, rows, _notes(model, masks, columns), _scale(model, columns, top))


def _cell(column: str, made: Predicted, number: int, top: float, grid: tuple[int, int]) -> Cell:
    h, w = made.original.shape[-2:]
    if column == "masked":
        return Cell(to_pil(made.masked[number]))
    if column == "reconstruction":
        return Cell(to_pil(made.reconstruction[number]), f"R² {made.r2[number]:.2f}")
    if column == "raw":
        picture = to_pil(made.raw[number])
        blank = (made.hidden[number].view(grid).byte() * 255).numpy()
        picture.putalpha(Image.fromarray(blank).resize((w, h), Image.Resampling.NEAREST))
        return Cell(picture)
    error = made.error[number]
    return Cell(heat_map(error.view(grid), top, (h, w)), f"mean {error.nanmean():.2f}")


def _notes(
    model: MaskedAutoencoder, masks: Sequence[ChosenMask], columns: Sequence[str]
) -> list[str]:
    shares = ", ".join(f"{mask.hidden:.0%}" for mask in masks)
    hidden = f"{shares} of the patches are hidden ({masks[0].pattern})."
    trained = f"The model was trained with {model.mask_ratio:.0%} hidden."
    notes = [f"{hidden} {trained}"]
    if "reconstruction" in columns:
        notes += [EXPLAINED["reconstruction"], EXPLAINED["r2"]]
    if "raw" in columns:
        notes.append(EXPLAINED["normalised" if model.norm_pix_loss else "pixels"])
    if "error" in columns:
        notes.append(EXPLAINED["error"])
    return notes


def _scale(model: MaskedAutoencoder, columns: Sequence[str], top: float) -> Scale | None:
    if "error" not in columns:
        return None
    meaning = "error of a patch"
    if model.norm_pix_loss:
        meaning += "; 1 is what predicting its mean would cost"
    return Scale(meaning, "0", f"{top:.2g} and more")
