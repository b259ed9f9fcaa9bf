"""Principal components of patch tokens, shown as colours: similar patches look alike."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mae.base.errors import UserError
from mae.pictures.drawing import displayable, heat_map, patches_picture, to_pil
from mae.pictures.sheet import Cell, Scale, Sheet

COMPONENTS = 3
"""number of components: red, green, blue"""

ENDS = (0.01, 0.99)
"""quantiles of a component that are shown as 0 and 1"""


class Components(NamedTuple):
    """First three principal components of all patches of all images, each in [0, 1]."""

    values: Float[Tensor, "b n 3"]
    is_shown: Bool[Tensor, "b n"]
    """False: background, below the threshold, and not fitted"""
    explained: list[float]
    """share of the variance of the fitted tokens, by component"""


def principal_components(
    tokens: Float[Tensor, "b n d"], grid: tuple[int, int], foreground: float | None = None
) -> Components:
    """Fit components to the patches of all images at once, so that colours compare across images.

    With `foreground` a first fit removes patches whose first component, scaled to [0, 1], is below
    that threshold; a second one is fitted to the rest (as in DINOv2, Oquab et al. 2023, figure 1).
    Signs are fixed: each component is larger in the middle of the images than at their borders, on
    average.  Raises UserError where the threshold leaves too few patches.
    """
    b, n, d = tokens.shape
    flat = tokens.reshape(b * n, d).double().cpu()
    is_border = border_mask(grid).repeat(b)
    is_shown = torch.ones(b * n, dtype=torch.bool)
    if foreground is not None:
        first, _ = project(flat, is_border, is_shown)
        is_shown = first[:, 0] >= foreground
        if is_shown.sum() <= COMPONENTS:
            raise UserError(f"--foreground: {foreground} leaves {int(is_shown.sum())} patches")
    values, explained = project(flat, is_border, is_shown)
    return Components(values.float().view(b, n, -1), is_shown.view(b, n), explained)


def without_position_mean(tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Subtract from each token the mean over the images at its position.

    Tokens of an encoder early in training mostly encode position.  Raises UserError for a single
    image.
    """
    if len(tokens) < 2:
        raise UserError("--contents: needs at least two images")
    return tokens - tokens.mean(dim=0)


def project(
    flat: Float[Tensor, "n d"], is_border: Bool[Tensor, " n"], is_fitted: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, "n 3"], list[float]]:
    """Fit components to the rows `is_fitted`: values of all rows in [0, 1], shares of variance.

    Components that do not exist (fewer dimensions, or no variance) are 0.
    """
    fitted = flat[is_fitted]
    mean = fitted.mean(dim=0)
    covariance = (fitted - mean).T @ (fitted - mean)
    variances, axes = torch.linalg.eigh(covariance)
    order = variances.argsort(descending=True, stable=True)[:COMPONENTS]
    along = (flat - mean) @ axes[:, order]
    middle = along[is_fitted & ~is_border].mean(dim=0) - along[is_fitted & is_border].mean(dim=0)
    # Without fitted rows on both sides, or with equal means, the largest value decides.
    widest = along[is_fitted].gather(0, along[is_fitted].abs().argmax(dim=0, keepdim=True))[0]
    is_clear = middle.abs() > 1e-6 * widest.abs()
    along = along * torch.where(is_clear, middle, widest).sign()
    low, high = along[is_fitted].quantile(torch.tensor(ENDS, dtype=along.dtype), dim=0)
    scaled = ((along - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    total = variances.clamp(min=0).sum().clamp(min=1e-300)
    shares = (variances[order].clamp(min=0) / total).tolist()
    missing = COMPONENTS - scaled.shape[1]
    return torch.nn.functional.pad(scaled, (0, missing)), shares + [0.0] * missing


def border_mask(grid: tuple[int, int]) -> Bool[Tensor, " n"]:
    """Mask of the patches at the edge of the image."""
    is_border = torch.ones(grid, dtype=torch.bool)
    is_border[1:-1, 1:-1] = False
    return is_border.flatten()


def components_sheet(
    images: Tensor,
    names: Sequence[str],
    found: Components,
    grid: tuple[int, int],
    title: str,
    *,
    has_places: bool = True,
) -> Sheet:
    """Sheet with a row per image: original, three components as red, green, blue, and each alone.

    `has_places`: the tokens are those of the encoder, not those of `without_position_mean`.
    """
    shown = displayable(images).cpu()
    size = (shown.shape[-2], shown.shape[-1])
    rows = []
    for picture, name, values, is_shown in zip(
        shown, names, found.values, found.is_shown, strict=True
    ):
        values, is_shown = values.view(*grid, -1), is_shown.view(grid)
        alone = values.masked_fill(~is_shown[..., None], torch.nan).unbind(-1)
        maps = [patches_picture(values, is_shown, size)]
        maps += [heat_map(one, 1.0, size) for one in alone]
        rows.append([Cell(to_pil(picture), name), *map(Cell, maps)])
    count = f"{len(names)} image" + "s" * (len(names) > 1)
    places = (
        "Colours that run from edge to edge whatever is shown are places, not contents (--contents "
        "removes them)."
        if has_places
        else "What the images have in common at each place is taken off (--contents)."
    )
    notes = [
        f"Principal components of the patch tokens, fitted to {count} at once: equal colours "
        "are patches that the encoder takes to be alike, in all images.",
        f"The three explain {sum(found.explained):.0%} of the tokens' variance. {places}",
    ]
    if not found.is_shown.all():
        notes.append(
            f"{found.is_shown.float().mean():.0%} of the patches are foreground: the others lie "
            "below the threshold in the first component of a fit before, and are left blank."
        )
    numbered = [f"{i + 1}: {share:.0%}" for i, share in enumerate(found.explained)]
    scale = Scale("place on a component, from its first to its last hundredth", "0", "1")
    return Sheet(title, ["original", "1, 2, 3 as RGB", *numbered], rows, notes, scale)
