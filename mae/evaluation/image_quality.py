"""Quality of reconstructions besides PSNR: structural similarity, fine detail; bicubic baseline."""

from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""side in pixels and standard deviation of the Gaussian window of SSIM"""

K1, K2 = 0.01, 0.03
"""constants of SSIM, for values in [0, 1]"""


def ssim(images: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity (Wang et al. 2004, section III.B) of each image; 1: equal.

    Images in [0, 1] with sides of at least `WINDOW`; mean over the channels, and over the positions
    where the window lies within the image.
    """
    mean_x, mean_y = blur(images), blur(truth)
    variance_x = blur(images.square()) - mean_x.square()
    variance_y = blur(truth.square()) - mean_y.square()
    covariance = blur(images * truth) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x.square() + mean_y.square() + K1**2)
    structure = (2 * covariance + K2**2) / (variance_x + variance_y + K2**2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def blur(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Gaussian means, where the window lies within the image."""
    places = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    weights = (-0.5 * (places / SIGMA).square()).exp()
    weights = weights / weights.sum()
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(F.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat[:, 0].unflatten(0, images.shape[:2])


def high_frequency_energy(images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Energy of each image above half of the Nyquist frequency, in squared pixel values.

    Frequencies are those of the discrete Fourier transform, by their distance from 0.
    """
    height, width = images.shape[2:]
    power = torch.fft.fft2(images).abs().square() / (height * width)
    rows = torch.fft.fftfreq(height, device=images.device, dtype=images.dtype)
    columns = torch.fft.fftfreq(width, device=images.device, dtype=images.dtype)
    is_high = rows.square()[:, None] + columns.square() > 0.25**2
    return (power * is_high).sum(dim=(1, 2, 3))


def through_bicubic(images: Float[Tensor, "b c h w"], numbers: int) -> Float[Tensor, "b c h w"]:
    """Images in [0, 1] reduced to at most `numbers` per image, and enlarged again, both bicubic."""
    _, channels, height, width = images.shape
    share = sqrt(numbers / (channels * height * width))
    size = max(1, int(height * share)), max(1, int(width * share))
    reduced = F.interpolate(images, size=size, mode="bicubic", antialias=True)
    return F.interpolate(reduced, size=(height, width), mode="bicubic").clamp(0, 1)
