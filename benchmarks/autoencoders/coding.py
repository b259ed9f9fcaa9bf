"""Coders with as many bits as an autoencoder's codes, tuned on the test images."""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from benchmarks.autoencoders.data_sets import Images
from benchmarks.autoencoders.denoising import mean_psnr
from mae.config.sections import Config
from mae.objectives.autoencoders.baselines import fit_pca
from mae.objectives.autoencoders.jpeg import jpeg_psnr


def coders(config: Config, load: Callable[[], Images], row: Mapping[str, Any]) -> dict[str, float]:
    """PCA with a uniform quantiser, and JPEG, with at most as many bits per image."""
    images = load()
    bits = row["bits_per_pixel"] * images.test.shape[2] * images.test.shape[3]
    return {
        "mean image": row["psnr_mean_image"],
        "PCA and quantiser": pca_and_quantiser(images, bits),
        "JPEG": fmean(jpeg_psnr(image, bits) for image in images.test),
    }


def pca_and_quantiser(images: Images, bits: float) -> float:
    """PSNR of PCA whose numbers are quantised uniformly, with at most `bits` per image."""
    size = images.test.shape[2], images.test.shape[3]
    best = 0.0
    for per_number in range(2, 9):
        count = int(bits // per_number)
        if count < 1:
            continue
        pca = fit_pca(images.train, count, size)
        fitted = (images.train.permute(0, 2, 3, 1).flatten(1) - pca.mean) @ pca.basis.T
        numbers = (images.test.permute(0, 2, 3, 1).flatten(1) - pca.mean) @ pca.basis.T
        for width in (2.0, 2.5, 3.0, 4.0):
            span = width * fitted.std(dim=0)
            step = 2 * span / (2**per_number - 1)
            levels = ((numbers.clamp(-span, span) + span) / step).round()
            made = (levels * step - span) @ pca.basis + pca.mean
            decoded = made.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)
            best = max(best, mean_psnr(decoded, images.test))
    return best
