"""Panel and sheet of a denoiser: noisy image, result, what was removed."""

import numpy as np
from torch import Tensor

from mae.base.errors import UserError
from mae.objectives.noise2void.measures import means_of, measure, sums_of
from mae.objectives.noise2void.model import Denoiser
from mae.pictures.denoising import REMOVED_TOP, denoised_columns
from mae.pictures.drawing import displayable, to_pil
from mae.pictures.reconstruction import (
    NOT_FINITE,
    MeasuredImages,
    ReconstructionReport,
    ReconstructionRequest,
    check_columns,
    refuse_masks,
)
from mae.pictures.sheet import Cell, Sheet

LINES = {
    "psnr_target": "PSNR of the predicted noisy pixels   {:7.2f} dB",
    "psnr_interpolated": "  mean of their neighbours           {:7.2f} dB",
    "psnr": "PSNR against the second image        {:7.2f} dB",
    "psnr_plain": "  in one pass that hides nothing     {:7.2f} dB",
    "psnr_noisy": "  noisy image                        {:7.2f} dB",
    "residual_autocorrelation": "autocorrelation of what was removed  {:7.2f}",
    "residual_correlation": "  its correlation with the result    {:7.2f}",
}
"""measure → line to print"""


def panel_columns(model: Denoiser, images: Tensor) -> dict[str, Tensor]:
    """Columns of pictures [b c h w] in [0, 1], of integer images or pairs."""
    first, second = images[:, : model.in_chans], images[:, model.in_chans :]
    result = model.denoise(first)
    if not result.isfinite().all():
        raise UserError(NOT_FINITE)
    columns = denoised_columns(first, result)
    if second.shape[1]:
        columns["second image"] = displayable(first, second.float() / model.white).cpu()
    return columns


def denoised_sheet(model: Denoiser, request: ReconstructionRequest) -> ReconstructionReport:
    """Sheet and figures of `mae reconstruct`.  Raises UserError for masks and unknown columns."""
    refuse_masks(request)
    columns = panel_columns(model, request.images)
    heads = {"noisy": "input", "denoised": "denoised"}
    named = {heads.get(name, name.split(",")[0]): one for name, one in columns.items()}
    check_columns(request.columns, list(named))
    chosen = list(request.columns or named)
    names = request.names
    rows = [
        [Cell(to_pil(named[head][row]), names[row] if head == chosen[0] else "") for head in chosen]
        for row in range(len(names))
    ]
    figures = measured(model, request.measured)
    notes = [
        f"removed: noisy less denoised image, from -{REMOVED_TOP:g} (black) to {REMOVED_TOP:g} "
        "(white), of 1; it should look like noise."
    ]
    count = int(figures["images"])
    lines = [f"{count} image{'s' * (count > 1)}"]
    lines += [text.format(figures[key]) for key, text in LINES.items() if key in figures]
    return ReconstructionReport(Sheet(request.title, chosen, rows, notes), figures, lines)


def measured(model: Denoiser, images: MeasuredImages) -> dict[str, float]:
    """Means of the measures over images, and their number."""
    found = images.each(lambda part, seeds: sums_of(measure(model, part, seeds)))
    total = np.sum([batch.numbers for batch in found], axis=0)
    return {"images": sum(batch.images for batch in found), **means_of(total)}
