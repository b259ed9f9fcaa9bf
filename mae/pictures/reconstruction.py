"""Sheet and PSNR of `mae reconstruct` for any objective: original, reconstruction, error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.networks.patches import in_range, unit_values
from mae.objectives.base import Objective
from mae.objectives.capabilities import Reconstruction
from mae.pictures.drawing import covered, displayable, heat_map, to_pil
from mae.pictures.sheet import Cell, Scale, Sheet

BATCH = 64
"""images per batch"""

NOT_FINITE = "reconstructions are not finite: the weights are damaged; take another checkpoint"

MIN_MSE = 1e-10
"""smallest mean squared error, which is 100 dB"""

SCALE_QUANTILE = 0.98
"""quantile of the error at the upper end of the scale"""


Numbers = npt.NDArray[np.float64]
Compute = Callable[[Tensor, Tensor], Numbers]
"""(integer images [b c h w] on the device of the objective, seeds of the noise [b]) → numbers"""


class Measured(NamedTuple):
    """Numbers of a batch of images, and how many images those are."""

    numbers: Numbers
    images: int


class Total(NamedTuple):
    """Sum of images."""

    sum: Tensor
    """of values in [0, 1]; float64 [c h w], on the CPU"""
    images: int


class MeasuredImages(Protocol):
    """Images that figures are computed on, batch by batch, by all processes together."""

    def each(self, compute: Compute) -> list[Measured]:
        """Results of `compute` for all batches in order, in all processes."""
        ...

    def total(self) -> Total:
        """Sum of the images, in all processes."""
        ...


class ReconstructionRequest(NamedTuple):
    """Images and options of `mae reconstruct`."""

    images: Tensor
    """images of the sheet: integers [b c h w], on the device of the objective"""
    names: list[str]
    seeds: Tensor
    """[b] seeds of the noise"""
    measured: MeasuredImages
    title: str
    objective: str
    """name of the objective"""
    mask: str | None
    """pattern of the mask; None: that of the run"""
    mask_ratios: Sequence[float]
    """shares of the image to hide; empty: that of the run"""
    columns: Sequence[str]
    """columns of the sheet; empty: all"""


class ReconstructionReport(NamedTuple):
    """Result of `mae reconstruct`."""

    sheet: Sheet
    figures: dict[str, Any]
    """content of the JSON file beside the sheet"""
    lines: list[str]
    """lines to print"""


class Further(NamedTuple):
    """Additions of an objective to sheet and report."""

    cells: Mapping[str, Sequence[Cell]] = {}
    """columns of the sheet"""
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = {}
    lines: Sequence[str] = ()


class Quality(NamedTuple):
    """PSNR in dB, mean over images; over hidden pixels only, where the objective masks."""

    images: int
    psnr: float
    psnr_mean_image: float | None
    """baseline: the mean of the other images at each pixel; None for a single image"""
    psnr_mean_pixel: float
    """baseline: each image's own mean colour"""
    psnr_input: float | None = None
    """baseline: the corrupted input; None: the objective corrupts nothing"""


def reconstruct(
    objective: Objective, request: ReconstructionRequest, further: Further | None = None
) -> ReconstructionReport:
    """Sheet and PSNR of an objective that has a method `reconstruct`.

    Raises UserError for mask options, which only other objectives have.
    """
    refuse_masks(request)
    further = further or Further()
    made = reconstructions(objective, request.images, request.seeds)
    sheet = reconstruction_sheet(request.images, request.names, made, request, further)
    found = measure(objective, request.measured)
    where = "hidden pixels" if made.mask is not None else "all pixels"
    figures = {**found._asdict(), "over": where, **further.figures}
    return ReconstructionReport(sheet, figures, [*_table(found, where), *further.lines])


def refuse_masks(request: ReconstructionRequest) -> None:
    """Raise UserError for mask options, for objectives without masks to choose."""
    if request.mask is not None or request.mask_ratios:
        key = "--mask-ratio" if request.mask is None else "--mask"
        raise UserError(f"{key}: objective {request.objective} has no masks to choose: remove it")


@torch.no_grad()
def reconstructions(objective: Objective, images: Tensor, seeds: Tensor) -> Reconstruction:
    """Reconstructions of integer images [b c h w], on the CPU; UserError if not finite."""
    reconstruct: Any = objective.reconstruct
    parts = [
        reconstruct(part, objective.draw(part, noise))
        for part, noise in zip(images.split(BATCH), seeds.split(BATCH), strict=True)
    ]
    masks = [part.mask.cpu() for part in parts if part.mask is not None]
    inputs = [part.inputs.float().cpu() for part in parts if part.inputs is not None]
    pasted = torch.cat([part.pasted.float().cpu() for part in parts])
    if not pasted.isfinite().all():
        raise UserError(NOT_FINITE)
    return Reconstruction(
        pasted,
        torch.cat(masks) if masks else None,
        torch.cat(inputs) if inputs else None,
    )


def measure(objective: Objective, measured: MeasuredImages) -> Quality:
    """PSNR of the reconstructions of images and of trivial predictors."""
    total, count = measured.total()
    kinds = ("model", "mean image", "mean pixel", "input")

    def compute(images: Tensor, seeds: Tensor) -> Numbers:
        """PSNR of each image by the kinds of predictors [kinds b]; NaN: there is none."""
        made, truth = reconstructions(objective, images, seeds), unit(images)
        weight = torch.ones_like(truth) if made.mask is None else made.mask
        guesses = {"model": made.pasted, "mean pixel": truth.mean(dim=(2, 3), keepdim=True)}
        if count > 1:
            guesses["mean image"] = (total - truth.double()) / (count - 1)
        if made.inputs is not None:
            guesses["input"] = in_range(made.inputs, images)
        found = torch.full((len(kinds), len(images)), torch.nan, dtype=torch.float64)
        for name, guess in guesses.items():
            squared = (guess.double() - truth.double()).square() * weight
            errors = squared.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1)
            found[kinds.index(name)] = psnr(errors)
        return found.numpy()

    found = np.concatenate([batch.numbers for batch in measured.each(compute)], axis=1)
    means = [None if np.isnan(row).any() else float(row.mean()) for row in found]
    model, mean_image, mean_pixel, of_input = means
    assert model is not None and mean_pixel is not None
    return Quality(
        images=count,
        psnr=model,
        psnr_mean_image=mean_image,
        psnr_mean_pixel=mean_pixel,
        psnr_input=of_input,
    )


def psnr(errors: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB from mean squared errors of values in [0, 1]."""
    return -10 * errors.clamp(min=MIN_MSE).log10()


def unit(images: Tensor) -> Tensor:
    """Integer images scaled to [0, 1], floats as they are, on the CPU."""
    return unit_values(images.cpu())


def reconstruction_sheet(
    images: Tensor,
    names: Sequence[str],
    made: Reconstruction,
    request: ReconstructionRequest,
    further: Further,
) -> Sheet:
    """Sheet with a row per image: original, masked (where there is a mask), reconstruction, error.

    Where the input was corrupted: original, input, denoised, error.  Raises UserError for columns
    that do not exist.
    """
    truth, shown = unit(images), displayable(images.cpu())
    mask = torch.ones_like(truth) if made.mask is None else made.mask
    errors = (made.pasted - truth).abs().mean(dim=1)
    top = max(
        torch.quantile(errors.flatten().double()[:: _stride(errors)], SCALE_QUANTILE).item(), 1e-6
    )
    size = (truth.shape[-2], truth.shape[-1])
    cells = {"original": [Cell(to_pil(one), name) for one, name in zip(shown, names, strict=True)]}
    if made.mask is not None:
        cells["masked"] = [Cell(to_pil(one)) for one in covered(shown, mask)]
    pictures = {"reconstruction": made.pasted}
    if made.inputs is not None:
        pictures = {"input": in_range(made.inputs, images), "denoised": made.pasted}
    for head, picture in pictures.items():
        quality = _psnr_of_each(picture, truth, mask)
        cells[head] = [
            Cell(to_pil(one), f"PSNR {value:.1f} dB")
            for one, value in zip(displayable(images.cpu(), picture), quality, strict=True)
        ]
    cells["error"] = [Cell(heat_map(one, top, size), f"mean {one.mean():.3f}") for one in errors]
    cells |= {head: list(column) for head, column in further.cells.items()}
    check_columns(request.columns, list(cells))
    heads = list(request.columns or cells)
    what = "reconstruction" if made.inputs is None else "picture above it"
    is_float = images.is_floating_point()
    peak = "for a peak of one standard deviation: 0 dB is the mean" if is_float else ""
    notes = [f"PSNR: of the {what}, {peak or 'for values from 0 to 1'}; higher is better."]
    if made.mask is not None:
        notes.append("Of hidden pixels alone: the visible ones are pasted in.")
    if "error" in heads:
        notes.append("error: mean absolute difference of each pixel's channels.")
    notes += further.notes
    of = "in standard deviations" if is_float else "of 1"
    scale = Scale(f"absolute error of a pixel, {of}", "0", f"{top:.2g} and more")
    rows = [[cells[head][row] for head in heads] for row in range(len(names))]
    return Sheet(request.title, heads, rows, notes, scale if "error" in heads else None)


def check_columns(columns: Sequence[str], there: Sequence[str]) -> None:
    """Raise UserError for columns of the sheet that are not `there`."""
    if unknown := [column for column in columns if column not in there]:
        raise UserError(f"--columns: no {unknown[0]} here; there are {', '.join(there)}")


def _psnr_of_each(pictures: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """PSNR of each picture in dB, over the pixels where `mask` is 1."""
    squared = (pictures - truth).square() * mask
    return psnr(squared.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1))


def _stride(values: Tensor, most: int = 2**22) -> int:
    """Stride that leaves at most `most` values, the limit of torch.quantile."""
    return -(-values.numel() // most)


def _table(found: Quality, where: str) -> list[str]:
    count = f"{found.images} image" + "s" * (found.images > 1)
    rows = {
        "model": found.psnr,
        "corrupted input": found.psnr_input,
        "mean of the other images": found.psnr_mean_image,
        "mean colour of each image": found.psnr_mean_pixel,
    }
    return [
        f"PSNR of {count}, {where}",
        *(f"  {name:34}{value:7.2f} dB" for name, value in rows.items() if value is not None),
    ]
