"""Implementation of the denoising autoencoder."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from mae.base.tensor_hashing import mix_tensor
from mae.config.sections import Config
from mae.export.contract import Writer
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.baselines import Baselines, Pca, fit_baselines
from mae.objectives.autoencoders.bottleneck import LinearBottleneck
from mae.objectives.autoencoders.corruption import Corruption
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, psnr_of
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.dae.declaration import dae_model
from mae.objectives.dae.export import write_onnx, write_program
from mae.objectives.dae.model import DenoisingAutoencoder
from mae.objectives.implementation import HeldOut

COMPONENTS = (8, 16, 32, 64, 128, 256, 512)
"""numbers of principal components that are tried as a denoiser"""


class DaeImplementation(AutoencoderImplementation):
    """Implementation of the denoising autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_program}

    def build(self, config: Config) -> DenoisingAutoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), dae_model(config)
        bottleneck = LinearBottleneck(backbone.encoded, model.latent, model.latent_dim)
        corruption = Corruption(model.corruption, model.strength)
        return DenoisingAutoencoder(config, backbone, bottleneck, corruption, model.residual)

    def fit_baselines(self, objective: Autoencoder, held_out: HeldOut) -> Baselines:
        """Baselines of whole images: those of small patches keep all, noise included.

        PCA has the number of components that best denoises training images it is not fitted on.
        """
        size = objective.img_size

        def tuned(shown: Tensor, widest: Pca) -> Pca:
            corruption, seeds = objective.corruption, torch.arange(len(shown), device=shown.device)
            assert corruption is not None
            noise = corruption.draw(mix_tensor(seeds), (shown.shape[1], *size))
            noisy = corruption.apply(shown, noise)
            counts = {min(count, len(widest.basis)) for count in COMPONENTS}
            found = [Pca(widest.mean, widest.basis[:count], size) for count in sorted(counts)]
            return max(found, key=lambda one: psnr_of(one.reconstruct(noisy), shown).mean().item())

        return fit_baselines(held_out, size, max(COMPONENTS), size, tuned)


IMPLEMENTATION = DaeImplementation()
