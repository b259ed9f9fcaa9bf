"""Implementation of the variational autoencoder."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.networks.vit import parameter_groups
from mae.objectives.autoencoders.backbones import build_backbone, encode_map
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.vae.bottleneck import GaussianBottleneck, gaussian_kl
from mae.objectives.vae.declaration import vae_model
from mae.objectives.vae.model import VariationalAutoencoder
from mae.objectives.vae.pictures import sample_block, traversal_block

ACTIVE = 0.01
"""variance of a posterior mean over images, above which a latent is active (Burda et al. 2016)"""

SIGMA_SPEED = 10.0
"""learning rate of sigma, relative to the others': at 1 it lags behind the errors"""


class VaeImplementation(AutoencoderImplementation):
    """Implementation of the variational autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> VariationalAutoencoder:
        """Build the model from the settings."""
        backbone, model, data = build_backbone(config), vae_model(config), config.data
        height, width = backbone.img_size
        bottleneck = GaussianBottleneck(
            backbone.encoded,
            model.latent,
            model.latent_dim,
            beta=model.beta,
            beta_warmup=model.beta_warmup,
            free_bits=model.free_bits,
            values=data.in_chans * height * width,
        )
        return VariationalAutoencoder(config, backbone, bottleneck)

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """The usual groups, and sigma at ten times the learning rate, without decay."""
        assert isinstance(objective, VariationalAutoencoder)
        sigma = objective.log_sigma
        groups = parameter_groups(objective, config.optim.weight_decay)
        for group in groups:
            group["params"] = [one for one in group["params"] if one is not sigma]
        if sigma.requires_grad:
            groups.append({"params": [sigma], "weight_decay": 0.0, "lr_scale": SIGMA_SPEED})
        return [group for group in groups if group["params"]]

    def blocks(
        self, objective: Autoencoder, images: Tensor, seeds: Tensor
    ) -> Sequence[Image.Image]:
        """Samples, and images along the most active latents."""
        assert isinstance(objective, VariationalAutoencoder)
        return sample_block(objective, images, seeds), traversal_block(objective, images)

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """KL and bound; per latent the KL, and first and second moments of the posterior mean."""
        assert isinstance(objective, VariationalAutoencoder)
        features = encode_map(objective.encoder, objective.normalize(images))
        mean, log_variance = objective.bottleneck.posterior(features)
        nats = gaussian_kl(mean, log_variance).flatten(1).double()
        mean = mean.flatten(1).double()
        done = torch.ones((), device=images.device)
        output = objective(images, objective.draw(images, seeds), done)
        bound = output.statistics["nll"].double() * len(images)
        parts = [bound[None], nats.sum(0), mean.sum(0), mean.square().sum(0)]
        return torch.cat(parts).cpu().numpy()

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """KL in nats per image, bits per value, active latents, sigma."""
        assert isinstance(objective, VariationalAutoencoder)
        nats, mean, square = np.split(sums[1:] / images, 3)
        variance = square - mean**2
        return {
            "kl_nats": float(nats.sum()),
            "bits": float(sums[0]) / images / log(2),
            "active": float((variance > ACTIVE).mean()),
            "latents": len(nats),
            "sigma": objective.log_sigma.exp().item(),
        }


IMPLEMENTATION = VaeImplementation()
