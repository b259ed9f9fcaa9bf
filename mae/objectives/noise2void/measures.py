"""Held-out measures of a denoiser: without clean images, and with them where they exist."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.evaluation.residuals import autocorrelation, correlation
from mae.objectives.autoencoders.implementation import psnr_of
from mae.objectives.noise2void.masking import interpolated
from mae.objectives.noise2void.model import Denoiser

Sums = npt.NDArray[np.float64]


class Measures(NamedTuple):
    """Measures of each image, [b]; None where they do not apply."""

    loss: Float[Tensor, " b"] | None
    """squared error of the noisy targets, normalised"""
    psnr_target: Float[Tensor, " b"] | None
    """of the predicted noisy targets: hidden pixels, or second images; dB"""
    psnr_interpolated: Float[Tensor, " b"] | None
    """of the mean of each hidden pixel's neighbours in its place"""
    psnr_unchanged: Float[Tensor, " b"]
    """of the result, compared with the noisy image"""
    residual_autocorrelation: Float[Tensor, " b"]
    """of the removed part, between neighbouring pixels"""
    residual_correlation: Float[Tensor, " b"]
    """of the removed part with the result"""
    psnr: Float[Tensor, " b"] | None
    """of the result, compared with the second image"""
    psnr_plain: Float[Tensor, " b"] | None
    """of one pass that hides nothing, compared with the second image"""
    psnr_noisy: Float[Tensor, " b"] | None
    """of the noisy image, compared with the second image"""


@torch.no_grad()
def measure(
    model: Denoiser, images: Shaped[Tensor, "b c h w"], seeds: Shaped[Tensor, " b"]
) -> Measures:
    """Measures of integer images, or pairs stacked along the channels."""
    noisy, second = model.split(images)
    result, given = model.denoise(noisy), model.unit(noisy)
    removed = given - result
    spots = model.draw(images, seeds)
    errors = by_neighbours = None
    if spots is None:
        if second is not None:
            errors = model.errors(model.correct(noisy), second)
    else:
        errors = model.errors_at(model.correct(model.hide(noisy, spots)), noisy, spots)
        mean = interpolated(noisy, torch.ones_like(noisy[:1, :1]))
        by_neighbours = model.psnr(model.errors_at(mean, noisy, spots))
    against = {"psnr": None, "psnr_plain": None, "psnr_noisy": None}
    if second is not None:
        truth = model.unit(second)
        made = {"psnr": result, "psnr_plain": model.denoise_plain(noisy), "psnr_noisy": given}
        against = {name: psnr_of(one, truth) for name, one in made.items()}
    return Measures(
        loss=None if errors is None else errors.mean(dim=(1, 2, 3)),
        psnr_target=None if errors is None else model.psnr(errors),
        psnr_interpolated=by_neighbours,
        psnr_unchanged=psnr_of(result, given),
        residual_autocorrelation=autocorrelation(removed),
        residual_correlation=correlation(removed.flatten(1), result.flatten(1)),
        **against,
    )


def sums_of(measures: Measures) -> Sums:
    """Number of images, then the sum of each measure; NaN for those that do not apply."""
    values = [np.nan if one is None else one.double().sum().item() for one in measures]
    return np.array([len(measures.psnr_unchanged), *values])


def means_of(sums: Sums) -> Mapping[str, float]:
    """Means of the measures by name, from the totals of `sums_of`."""
    count, *totals = sums.tolist()
    named = zip(Measures._fields, totals, strict=True)
    return {name: total / count for name, total in named if total == total}
