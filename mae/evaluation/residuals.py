"""Residuals of denoising: noisy less denoised image, and the evidence that it is noise."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mae.data.noise import MOST_PIXELS, noise_of
from mae.data.transform import center_crop

CORRELATED = 0.1
"""correlation from which noise, or what was removed, is not white"""
BIASED = 0.05
"""mean of what was removed, of its standard deviation, from which brightness changes"""
UNLIKE = 1.5
"""ratio of the noise of images and of training from which a denoiser does too little or too much"""


class Residual(NamedTuple):
    """Measures of one image; pixels in [0, 1]."""

    removed_mean: float
    """mean of what was removed; 0 where the noise has no bias"""
    removed_std: float
    removed_autocorrelation: float
    """correlation of neighbouring pixels of what was removed; near 0 for white noise"""
    removed_with_result: float
    """correlation of what was removed with the result; not 0 where details were removed"""
    noise_std: float | None
    """noise of the input, estimated from its flat parts; None: no noise was found"""
    noise_autocorrelation: float | None
    """its correlation between neighbouring pixels"""


def residual_of(
    noisy: Float[Tensor, "c h w"], denoised: Float[Tensor, "c h w"], white: int
) -> Residual:
    """Measures of an image and its result, pixels in [0, 1]; `white`: largest integer."""
    removed = (noisy - denoised)[None]
    _, height, width = noisy.shape
    middle = center_crop(noisy, (min(height, MOST_PIXELS), min(width, MOST_PIXELS)))
    found = noise_of((middle * white).round().double().cpu().numpy())
    worst = None if found is None else found[:, 1:].ravel()
    return Residual(
        removed_mean=removed.double().mean().item(),
        removed_std=removed.double().std(correction=0).item(),
        removed_autocorrelation=autocorrelation(removed).item(),
        removed_with_result=correlation(removed.flatten(1), denoised[None].flatten(1)).item(),
        noise_std=None if found is None else float(found[: len(noisy), 0].mean()) / white,
        noise_autocorrelation=None if worst is None else float(worst[np.abs(worst).argmax()]),
    )


def medians(
    residuals: Sequence[Residual], size: Callable[[float], float] = float
) -> dict[str, float | None]:
    """Median of each measure's `size` over the images; None where most images have none."""
    return {
        name: float(np.median(list(map(size, known))))
        if 2 * len(known := [value for value in column if value is not None]) >= len(column)
        else None
        for name, column in zip(Residual._fields, zip(*residuals, strict=True), strict=True)
    }


def findings(residuals: Sequence[Residual], trained_std: float | None) -> list[str]:
    """Lines on a noise model that does not hold for the images, each with what to do.

    `trained_std`: standard deviation of the noise that the denoiser was trained on, of pixels in
    [0, 1]; None: it learned from noisy images.
    """
    middle = medians(residuals)
    large = medians(residuals, abs)  # so that opposite signs do not cancel
    lines = []
    std, correlated = middle["noise_std"], middle["noise_autocorrelation"] or 0.0
    if std is None:
        lines.append("no noise was found in the images: compare results closely, details may go")
    if (large["noise_autocorrelation"] or 0.0) > CORRELATED:
        lines.append(
            f"noise of neighbouring pixels is correlated ({correlated:+.2f}; white noise: 0): the "
            "images were resampled, compressed or demosaiced: use the sensor's own files"
        )
    removed = middle["removed_autocorrelation"] or 0.0
    if (large["removed_autocorrelation"] or 0.0) > CORRELATED:
        lines.append(
            f"what was removed is correlated from pixel to pixel ({removed:+.2f}; white noise: 0): "
            "it holds structure of the images, or the noise is not white"
        )
    with_result = middle["removed_with_result"] or 0.0
    if (large["removed_with_result"] or 0.0) > CORRELATED:
        lines.append(
            f"what was removed is correlated with the result ({with_result:+.2f}): details are "
            "lost, or the noise depends on brightness"
        )
    mean, spread = large["removed_mean"] or 0.0, middle["removed_std"] or 0.0
    if spread and mean > BIASED * spread:
        lines.append(
            f"brightness changes by {mean:.2g} of 1: the noise has no mean of 0, or pixels are "
            "clipped at black or white"
        )
    if std and trained_std and not 1 / UNLIKE < std / trained_std < UNLIKE:
        lines.append(
            f"noise of about {std:.3f} (standard deviation, of 1), trained on {trained_std:.3f}: "
            f"train with model.strength near {std:.3f}"
        )
    return lines


def correlation(one: Float[Tensor, "b n"], other: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Pearson correlation of each row; 0 where one of them is constant."""
    one, other = (x - x.mean(dim=1, keepdim=True) for x in (one.double(), other.double()))
    lengths = one.norm(dim=1) * other.norm(dim=1)
    return ((one * other).sum(dim=1) / lengths.clamp(min=1e-12)).float()


def autocorrelation(images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Correlation of neighbouring pixels of each image, mean of rows and columns."""
    beside = correlation(images[..., :-1].flatten(1), images[..., 1:].flatten(1))
    below = correlation(images[..., :-1, :].flatten(1), images[..., 1:, :].flatten(1))
    return (beside + below) / 2
