"""Implementation of the adversarial autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.networks.vit import parameter_groups, set_apart
from mae.objectives.aae.bottleneck import AdversarialBottleneck
from mae.objectives.aae.declaration import aae_model
from mae.objectives.aae.moments import moments, sums_of
from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.gaussian_prior import (
    GaussianPriorAutoencoder,
    sample_block,
    traversal_block,
)
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective


class AaeImplementation(AutoencoderImplementation):
    """Implementation of the adversarial autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> GaussianPriorAutoencoder[AdversarialBottleneck]:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), aae_model(config)
        bottleneck = AdversarialBottleneck(
            backbone.encoded,
            model.latent_dim,
            adv=model.adv,
            adv_warmup=model.adv_warmup,
            critic_width=model.critic_width,
        )
        return GaussianPriorAutoencoder(config, backbone, bottleneck)

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """The usual groups; those of the critic with a learning rate of their own."""
        assert isinstance(objective, GaussianPriorAutoencoder)
        groups = parameter_groups(objective, config.optim.weight_decay)
        critic = objective.bottleneck.critic.parameters()
        return set_apart(groups, critic, lr_scale=aae_model(config).critic_lr_scale)

    def blocks(
        self, objective: Autoencoder, images: Tensor, seeds: Tensor
    ) -> Sequence[Image.Image]:
        """Samples, and images along the latents that differ most between the panel's images."""
        assert isinstance(objective, GaussianPriorAutoencoder)
        spread = objective.latents(images).std(dim=0, correction=0)
        return (
            sample_block(objective, images, seeds),
            traversal_block(objective, images, spread, "std {:.2f}"),
        )

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """Sums of the latents for their moments."""
        return sums_of(objective.latents(images).double().cpu().numpy())

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """Moments of the latents beside those of the prior."""
        found = moments(sums, images, objective.bottleneck.latent_dim)
        return {
            "latent_mean": found.mean.tolist(),
            "latent_std": found.std.tolist(),
            "mean_largest": float(np.abs(found.mean).max()),
            "std_smallest": float(found.std.min()),
            "std_largest": float(found.std.max()),
            "ks": float(found.ks.mean()),
            "ks_largest": float(found.ks.max()),
            "correlation_largest": found.correlation,
        }


IMPLEMENTATION = AaeImplementation()
