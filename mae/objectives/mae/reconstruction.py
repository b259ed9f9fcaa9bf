"""Quality of reconstruction: R² on hidden patches, beside two predictors without a model."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.base.errors import UserError
from mae.networks.patches import gather_tokens, patch_statistics, patchify, unpatchify
from mae.objectives.mae.masking import PatchSplit
from mae.objectives.mae.model import MaskedAutoencoder
from mae.pictures.reconstruction import NOT_FINITE

FLAT = 1e-3
"""deviation of hidden values, in the units of the target, below which R² is not defined"""

SWEEPS = 24
"""smoothing iterations of `fill_in` at each scale"""


class Explained(NamedTuple):
    """R² of predictors = 1 - squared error / squared deviation from the mean, over hidden pixels.

    In the units of the model's target.  With `norm_pix_loss` these are normalised by the true mean
    and deviation of each hidden patch, for every predictor.  None: not defined, as the hidden
    pixels are all alike.
    """

    model: float | None
    patch_mean: float | None
    """R² of predicting each hidden patch's true mean; 0 by construction with `norm_pix_loss`"""
    interpolation: float | None
    """R² of smooth interpolation from the visible patches (`interpolate_hidden`)"""
    images: int
    """number of images"""


class HiddenSums(NamedTuple):
    """Sums over hidden values, from which R² is computed; those of several batches can be added."""

    values: int
    """number of hidden values"""
    total: float
    squares: float
    """their sum, and their sum of squares"""
    errors: list[float]
    """squared error of each predictor, in the order of `Explained`"""
    images: int

    @classmethod
    def of(cls, sums: npt.NDArray[np.float64], images: int) -> "HiddenSums":
        """Sums of so many images, from the array of `hidden_sums`."""
        values, total, squares, *errors = sums.tolist()
        return cls(round(values), total, squares, errors, images)


def explained_variance(
    model: MaskedAutoencoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    draw: Callable[[Tensor, Tensor], PatchSplit] | None = None,
) -> Explained:
    """R² over batches of (images [b c h w], seeds [b]) on the model's device.

    `draw`: masks from images and seeds (default: the model's `draw`).  Raises UserError where the
    predictions are not finite.
    """
    return explained(sum_hidden(model, batches, draw))


def explained(sums: HiddenSums) -> Explained:
    """R² from the sums of all batches; UserError where the predictions are not finite."""
    if not math.isfinite(sums.errors[0]):
        raise UserError(NOT_FINITE)
    deviation = sums.squares - sums.total**2 / sums.values
    if is_flat(deviation, sums.values):
        return Explained(None, None, None, sums.images)
    return Explained(*(1 - error / deviation for error in sums.errors), images=sums.images)


def is_flat(deviation: float, values: int) -> bool:
    """Report whether hidden values hardly deviate from their mean, so that R² is not defined.

    `deviation`: sum of the squared deviations of `values` values.
    """
    return deviation < FLAT**2 * values


@torch.no_grad()
def sum_hidden(
    model: MaskedAutoencoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    draw: Callable[[Tensor, Tensor], PatchSplit] | None = None,
) -> HiddenSums:
    """Sums over the hidden values of batches: see `explained_variance`."""
    errors = torch.zeros(3, dtype=torch.float64)
    values, total, squares, num_images = 0, 0.0, 0.0, 0
    for images, seeds in batches:
        split = (draw or model.draw)(images, seeds)
        patches = model.patchify(images)
        target = model.target(patches, split.ids_masked)
        prediction = model.predict(patches, split)

        pixels = model.normalize(patches)
        mean, std = patch_statistics(gather_tokens(pixels, split.ids_masked))
        filled = patchify(interpolate_hidden(model, pixels, split.ids_keep), model.patch_size)
        smooth = gather_tokens(filled, split.ids_masked)
        if model.norm_pix_loss:
            mean, smooth = torch.zeros_like(mean), (smooth - patch_statistics(smooth)[0]) / std
        for i, predicted in enumerate((prediction, mean, smooth)):
            errors[i] += (predicted - target).double().square().sum().cpu()
        values += target.numel()
        total += target.double().sum().item()
        squares += target.double().square().sum().item()
        num_images += len(images)
    return HiddenSums(values, total, squares, errors.tolist(), num_images)


def interpolate_hidden(model: MaskedAutoencoder, pixels: Tensor, ids_keep: Tensor) -> Tensor:
    """Interpolate the hidden pixels smoothly from the visible ones; images [b c h w].

    `pixels` are normalised patches [b n values], of which only those of `ids_keep` are used.
    """
    visible = torch.zeros(*pixels.shape[:2], 1, device=pixels.device).scatter(
        1, ids_keep[:, :, None], 1.0
    )
    size = model.img_size, model.patch_size
    weight = unpatchify(visible.expand(-1, -1, model.patch_size[0] * model.patch_size[1]), *size)
    return fill_in(unpatchify(pixels * visible, *size), weight)


def fill_in(values: Tensor, weight: Tensor) -> Tensor:
    """Interpolate scattered data smoothly (near-harmonic); [b c h w].

    `values` [b c h w] are known where `weight` [b 1 h w] is 1, and 0 elsewhere.  Coarse to fine,
    as in pull-push (Gortler et al. 1996, "The Lumigraph", section 3.4.2): averages over squares
    twice as large fill the unknown pixels, then each of these moves to the mean of its neighbours.
    """
    h, w = weight.shape[-2:]
    if h == w == 1:
        return values
    # Squares at an odd edge are cut off there: sums over what exists, divided by its weight.
    sums, share = (
        F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (values, weight)
    )
    coarse = fill_in(sums / share.clamp(min=1e-12) * share.sign(), share.sign())
    picture = F.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
    for _ in range(SWEEPS):
        picture = values + picture * (1 - weight)
        padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        across = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
        picture = (across + padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1]) / 4
    return values + picture * (1 - weight)


def hidden_sums(
    model: MaskedAutoencoder,
    images: Tensor,
    seeds: Tensor,
    draw: Callable[[Tensor, Tensor], PatchSplit] | None = None,
) -> npt.NDArray[np.float64]:
    """Sums from which `shares_explained` computes R²; those of several batches can be added.

    Number of hidden values, their sum, their sum of squares, then the squared error of each
    predictor, in the order of `Explained`.
    """
    sums = sum_hidden(model, [(images, seeds)], draw)
    return np.array([sums.values, sums.total, sums.squares, *sums.errors])


@torch.no_grad()
def count_flat(model: MaskedAutoencoder, images: Tensor) -> npt.NDArray[np.float64]:
    """Patches whose values deviate by less than one level, and all patches; integer images."""
    std = model.patchify(images).float().std(dim=-1)
    return np.array([(std < 1).sum().item(), std.numel()], np.float64)


def shares_explained(
    values: float, total: float, squares: float, *errors: float
) -> tuple[float, ...]:
    """R² of each predictor from the sums of `hidden_sums`."""
    deviation = max(squares - total**2 / values, 1e-12)
    return tuple(1 - error / deviation for error in errors)
