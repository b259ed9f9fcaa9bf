"""Classical denoisers, tuned on the test images, and a denoiser on whole Kodak photographs."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.autoencoders.data_sets import Images
from mae.config.sections import Config
from mae.objectives.autoencoders.baselines import Pca, fit_pca
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.implementation import psnr_of
from mae.objectives.dae.declaration import dae_model
from mae.objectives.dae.model import DenoisingAutoencoder
from mae.training.checkpoint.trained import load_pretrained


def mean_psnr(made: Tensor, truth: Tensor) -> float:
    """Mean over images of the PSNR in dB."""
    return psnr_of(made.clamp(0, 1), truth).mean().item()


def image_shape(images: Tensor) -> tuple[int, int, int]:
    """Channels, height and width."""
    _, channels, height, width = images.shape
    return channels, height, width


def denoisers(
    config: Config, load: Callable[[], Images], row: Mapping[str, Any]
) -> dict[str, float]:
    """PCA, total variation and non-local means on the noisy test images."""
    from skimage.restoration import denoise_tv_chambolle

    images, sigma = load(), dae_model(config).strength
    corruption = Corruption("gaussian", sigma)
    seeds = torch.arange(len(images.test)) * 7919 + 1
    noisy = corruption.apply(images.test, corruption.draw(seeds, image_shape(images.test)))

    def each(filter_image: Callable[[np.ndarray], np.ndarray]) -> float:
        arrays = noisy.permute(0, 2, 3, 1).numpy()
        made = np.stack([filter_image(array).reshape(array.shape) for array in arrays])
        return mean_psnr(torch.from_numpy(made).permute(0, 3, 1, 2).float(), images.test)

    size = images.test.shape[2], images.test.shape[3]
    wide = min(len(images.train), images.test[0].numel())
    widest = fit_pca(images.train, min(512, wide), size)
    pca = [
        mean_psnr(Pca(widest.mean, widest.basis[:count], size).reconstruct(noisy), images.test)
        for count in (8, 16, 32, 64, 128, 256, 512)
        if count <= len(widest.basis)
    ]
    tv = [
        each(lambda x, w=w: denoise_tv_chambolle(x, w, channel_axis=-1))
        for w in (0.05, 0.08, 0.12, 0.2)
    ]
    nlm = [each(lambda x, h=h: non_local_means(x, h, sigma)) for h in (0.4, 0.6, 0.9)]
    return {
        "noisy": row["psnr_noisy"],
        "PCA": max(pca),
        "total variation": max(tv),
        "non-local means": max(nlm),
    }


def non_local_means(image: np.ndarray, h: float, sigma: float) -> np.ndarray:
    """Denoised image [h w c]; `h` in units of the noise's standard deviation."""
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        image, patch_size=3, patch_distance=5, h=h * sigma, sigma=sigma, channel_axis=-1
    )


def denoised_kodak(run: Path, folder: Path) -> dict[str, float]:
    """PSNR on whole Kodak photographs: a trained denoiser, the noisy ones, non-local means.

    Non-local means with the better of two strengths.
    """
    _, model, _ = load_pretrained(run)
    assert isinstance(model, DenoisingAutoencoder) and model.corruption is not None
    rows = list(kodak_rows(model, folder))
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    filters = {name: value for name, value in means.items() if name not in ("model", "noisy")}
    best = max(filters, key=lambda name: filters[name])
    return {"model": means["model"], "noisy": means["noisy"], best: means[best]}


@torch.no_grad()
def kodak_rows(model: Any, folder: Path) -> Iterator[dict[str, float]]:
    """PSNR of each photograph."""
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        array = np.array(Image.open(path).convert("RGB"))
        truth = torch.from_numpy(array).permute(2, 0, 1)[None]
        unit = truth.float() / 255
        seed = torch.tensor([7919 * number + 1])
        noise = model.corruption.draw(seed, image_shape(truth))
        noisy = model.corruption.apply(unit, noise)
        normalized = noisy * (model.pixel_scale * model.white) + model.pixel_shift
        row = {"model": mean_psnr(model.denoise(normalized), unit), "noisy": mean_psnr(noisy, unit)}
        pixels = noisy[0].permute(1, 2, 0).numpy()
        for h in (0.6, 0.9):
            made = non_local_means(pixels, h, model.corruption.strength)
            shown = torch.from_numpy(made).permute(2, 0, 1)[None].float()
            row[f"non-local means, h = {h} sigma"] = mean_psnr(shown, unit)
        yield row
