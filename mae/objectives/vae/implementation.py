"""Implementation of the variational autoencoder."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mae.config.sections import Config
from mae.export.contract import Writer
from mae.networks.vit import parameter_groups, set_apart
from mae.objectives.autoencoders.backbones import build_backbone, encode_map
from mae.objectives.autoencoders.declaration import image_numbers
from mae.objectives.autoencoders.export import write_onnx, write_programs
from mae.objectives.autoencoders.gaussian import GaussianBottleneck, KlWeight, gaussian_kl
from mae.objectives.autoencoders.gaussian_prior import sample_block, traversal_block
from mae.objectives.autoencoders.implementation import AutoencoderImplementation, Sums
from mae.objectives.autoencoders.model import Autoencoder
from mae.objectives.base import Objective
from mae.objectives.vae.declaration import vae_model
from mae.objectives.vae.model import VariationalAutoencoder

ACTIVE = 0.01
"""variance of a posterior mean over images, above which a latent is active (Burda et al. 2016)"""

SIGMA_SPEED = 10.0
"""learning rate of sigma, relative to the others': at 1 it lags behind the errors"""


class VaeImplementation(AutoencoderImplementation):
    """Implementation of the variational autoencoder."""

    exports: ClassVar[Mapping[str, Writer]] = {"onnx": write_onnx, "torch": write_programs}

    def build(self, config: Config) -> VariationalAutoencoder:
        """Build the model from the settings."""
        backbone, model = build_backbone(config), vae_model(config)
        bottleneck = GaussianBottleneck(
            backbone.encoded, model.latent, model.latent_dim, kl_weight(config)
        )
        return VariationalAutoencoder(config, backbone, bottleneck)

    def parameter_groups(self, objective: Objective, config: Config) -> list[dict[str, Any]]:
        """The usual groups, and sigma at ten times the learning rate, without decay."""
        assert isinstance(objective, VariationalAutoencoder)
        groups = parameter_groups(objective, config.optim.weight_decay)
        return set_apart(groups, [objective.log_sigma], weight_decay=0.0, lr_scale=SIGMA_SPEED)

    def blocks(
        self, objective: Autoencoder, images: Tensor, seeds: Tensor
    ) -> Sequence[Image.Image]:
        """Samples, and images along the most active latents."""
        assert isinstance(objective, VariationalAutoencoder)
        return (
            sample_block(objective, images, seeds),
            traversal_block(objective, images, latent_nats(objective, images), "{:.2f} nats"),
        )

    @torch.no_grad()
    def own_sums(self, objective: Autoencoder, images: Tensor, seeds: Tensor) -> Sums:
        """KL and bound; per latent the KL, and first and second moments of the posterior mean."""
        assert isinstance(objective, VariationalAutoencoder)
        features = encode_map(objective.encoder, objective.normalize(images))
        noise = objective.draw(images, seeds)
        nats = objective.bottleneck.infer(features, noise.latent).nats.double()
        mean = objective.latents(images).flatten(1).double()
        done = torch.ones((), device=images.device)
        output = objective(images, noise, done)
        bound = output.statistics["nll"].double() * len(images)
        parts = [bound[None], nats.sum(0), mean.sum(0), mean.square().sum(0)]
        return torch.cat(parts).cpu().numpy()

    def own_figures(self, objective: Autoencoder, sums: Sums, images: int) -> Mapping[str, Any]:
        """KL in nats per image, bits per value, active latents, sigma."""
        assert isinstance(objective, VariationalAutoencoder)
        nats, variance = moments(sums, images)
        return {
            "kl_nats": float(nats.sum()),
            "bits": float(sums[0]) / images / log(2),
            "active": float((variance > ACTIVE).mean()),
            "latents": len(nats),
            "sigma": objective.log_sigma.exp().item(),
        }


def latent_nats(model: VariationalAutoencoder, images: Tensor) -> Float[Tensor, " n"]:
    """KL divergence in nats of each latent, mean over images; of a map, summed over positions."""
    features = encode_map(model.encoder, model.normalize(images))
    nats = gaussian_kl(*model.bottleneck.posterior(features))
    return nats.unflatten(1, (-1, 1)).flatten(2).sum(dim=2).mean(dim=0)


def moments(sums: Sums, images: int) -> tuple[Sums, Sums]:
    """Per latent the mean KL, and the posterior mean's variance over images, from `own_sums`."""
    nats, mean, square = np.split(sums[1:] / images, 3)
    return nats, square - mean**2


def kl_weight(config: Config) -> KlWeight:
    """Weight of the KL divergence by the settings."""
    model, values = vae_model(config), image_numbers(config)
    assert values is not None
    return KlWeight(model.beta, model.beta_warmup, model.free_bits, values)


IMPLEMENTATION = VaeImplementation()
