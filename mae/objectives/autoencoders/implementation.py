"""Implementation shared by the autoencoders: held-out PSNR beside baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.evaluation.health import measure_held_out
from mae.networks.patches import in_range, unit_values
from mae.networks.vit_decoder import VitDecoder
from mae.objectives.autoencoders.baselines import Baselines, fit_baselines
from mae.objectives.autoencoders.declaration import model_of
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.implementation import HeldOut, Implementation
from mae.pictures.drawing import compared, stacked, tile
from mae.pictures.reconstruction import psnr

Sums = npt.NDArray[np.float64]

PSNRS = ("psnr", "psnr_mean_image", "psnr_pca", "psnr_noisy")
"""PSNR in dB of model, mean image, PCA of the model's input, and the input itself"""


class AutoencoderImplementation(Implementation):
    """Implementation of an autoencoder.  Subclasses define `build`."""

    def measure(self, objective: Objective, held_out: HeldOut) -> Mapping[str, Any]:
        """Evaluate feature health, PSNR beside baselines, and figures of the bottleneck."""
        assert isinstance(objective, Autoencoder)
        if objective.baselines is None:
            objective.baselines = self.fit_baselines(objective, held_out)
        baselines = objective.baselines

        def sums(images: Tensor, seeds: Tensor) -> Sums:
            own = self.own_sums(objective, images, seeds)
            return np.concatenate([psnr_sums(objective, images, seeds, baselines), own])

        health, totals = measure_held_out(objective, held_out, sums, self.maxima(objective))
        count, *psnrs = totals[: 1 + len(PSNRS)].tolist()
        figures = {name: total / count for name, total in zip(PSNRS, psnrs, strict=True)}
        if objective.corruption is None:
            del figures["psnr_noisy"]
        return {
            **health._asdict(),
            **figures,
            "pca_images": baselines.images,
            "pca_components": len(baselines.pca.basis),
            **self.own_figures(objective, totals[1 + len(PSNRS) :], int(count)),
        }

    @torch.no_grad()
    def panel(
        self,
        objective: Objective,
        images: Tensor,
        seeds: Tensor,
        title: str,
        names: Sequence[str] = (),
    ) -> Image.Image:
        """Panel: original, corrupted input if any, reconstruction, error; then `blocks`."""
        assert isinstance(objective, Autoencoder)
        made = objective.reconstruct(images, objective.draw(images, seeds))
        columns = {**compared(images, made), **self.further_columns(objective, images)}
        return stacked([tile(columns, title, names), *self.blocks(objective, images, seeds)])

    def further_columns(self, objective: Autoencoder, images: Tensor) -> Mapping[str, Tensor]:
        """Further columns of the panel, [b c h w] in [0, 1] (default: none)."""
        return {}

    def blocks(
        self, objective: Autoencoder, images: Tensor, seeds: Tensor
    ) -> Sequence[Image.Image]:
        """Blocks of pictures below the panel's columns (default: none)."""
        return ()

    def after_resize(self, objective: Objective, old_grid: tuple[int, int]) -> None:
        """Fit decoder and map of latents to the images' new size.

        Raises UserError where each latent is of the whole map, whose size is fixed.
        """
        assert isinstance(objective, Autoencoder)
        if objective.from_latent.is_vector:
            raise UserError(
                "--img-size: the latents are a vector of the whole image, at the run's size only "
                "(model.latent=map takes others)"
            )
        if isinstance(objective.decoder, VitDecoder):
            objective.decoder.resize(objective.img_size)
            (h, w), (p, q) = objective.img_size, objective.decoder.patch_size
            shape = objective.from_latent.shape
            objective.from_latent.shape = shape._replace(rows=h // p, columns=w // q)

    def fit_baselines(self, objective: Autoencoder, held_out: HeldOut) -> Baselines:
        """Baselines with as many numbers as the latents."""
        height, width = objective.img_size
        patch_size = objective.img_size
        if model_of(held_out.config).latent == "map":
            shape = objective.from_latent.shape
            patch_size = height // shape.rows, width // shape.columns
        components = self.pca_components(held_out.config)
        return fit_baselines(held_out, objective.img_size, components, patch_size)

    def pca_components(self, config: Config) -> int:
        """Components of PCA, per image or per position of the map (default: the latents')."""
        return model_of(config).latent_dim

    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """Sums over a batch of held-out images for `own_figures` (default: none)."""
        return np.empty(0)

    def maxima(self, objective: Autoencoder) -> int:
        """Number of the last numbers of `own_sums` that are maxima (default: none)."""
        return 0

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Figures of the bottleneck from the totals of `own_sums` over `images` (default: none)."""
        return {}


@torch.no_grad()
def psnr_sums(objective: Autoencoder, images: Tensor, seeds: Tensor, baselines: Baselines) -> Sums:
    """Number of images, and sums of `PSNRS`."""
    truth = unit_values(images)
    made = objective.reconstruct(images, objective.draw(images, seeds))
    inputs = truth if made.inputs is None else made.inputs.float()
    predicted = [
        made.pasted.float(),
        baselines.mean_image.expand_as(truth),
        in_range(baselines.pca.reconstruct(inputs), images),
        in_range(inputs, images),
    ]
    totals = [psnr_of(one, truth).double().sum().item() for one in predicted]
    return np.array([len(images), *totals])


def psnr_of(images: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of each image [b c h w] in [0, 1] against `truth`; at most 100 dB."""
    return psnr((images - truth).square().mean(dim=(1, 2, 3)))
