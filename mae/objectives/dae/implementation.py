"""Implementation of the denoising autoencoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.baselines import Baselines, fit_baselines
from mae.objectives.autoencoders.bottleneck import LinearBottleneck
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums, psnr_of
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import HeldOut
from mae.objectives.dae.declaration import dae_model
from mae.objectives.dae.export import write_onnx, write_program
from mae.objectives.dae.model import DenoisingAutoencoder


class DaeImplementation(AutoencoderImplementation):
    """Implementation of the denoising autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_program}

    def build(self, config: Config) -> DenoisingAutoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), dae_model(config)
        bottleneck = LinearBottleneck(backbone.encoded, model.latent, model.latent_dim)
        corruption = Corruption(model.corruption, model.strength)
        return DenoisingAutoencoder(config, backbone, bottleneck, corruption, model.residual)

    def inputs(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Tensor:
        """Corrupted images in [0, 1], not clipped."""
        normalized = objective.normalize(images)
        return objective.unit(objective.corrupted(normalized, objective.draw(images, seeds)))

    def fit_baselines(self, objective: Autoencoder, held_out: HeldOut) -> Baselines:
        """Baselines of whole images: those of small patches keep all, noise included."""
        components = self.pca_components(held_out.config)
        return fit_baselines(held_out, objective.img_size, components, objective.img_size)

    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """PSNR of the noisy images."""
        truth = objective.unit(objective.normalize(images))
        noisy = self.inputs(objective, images, seeds).clamp(0, 1)
        return np.array([psnr_of(noisy, truth).double().sum().item()])

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """PSNR of the noisy images, the baseline of every denoiser."""
        return {"psnr_noisy": float(sums[0]) / images}


IMPLEMENTATION = DaeImplementation()
