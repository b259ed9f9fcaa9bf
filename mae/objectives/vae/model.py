"""Variational autoencoder: Gaussian latents, Gaussian pixels with a learned standard deviation."""

from math import log, pi

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mae.config.sections import Config
from mae.objectives.autoencoders.backbones import Backbone
from mae.objectives.autoencoders.gaussian import VariationalBottleneck
from mae.objectives.autoencoders.gaussian_prior import GaussianPriorAutoencoder
from mae.objectives.autoencoders.model import Noise
from mae.objectives.base import Output, full_precision
from mae.objectives.vae.declaration import level_nats, vae_model


class VariationalAutoencoder(GaussianPriorAutoencoder[VariationalBottleneck]):
    """Negative evidence lower bound per value of the image, in nats of normalised pixels.

    The sum of both losses at beta 1 is the bound (Kingma and Welling 2013, equation 3).  The
    standard deviation of the pixels is one number, learned (Rybkin et al. 2021, arXiv:2006.13202).
    """

    def __init__(
        self, config: Config, backbone: Backbone, bottleneck: VariationalBottleneck
    ) -> None:
        super().__init__(config, backbone, bottleneck)
        model = vae_model(config)
        start = torch.tensor(log(model.sigma))
        self.log_sigma = nn.Parameter(start, requires_grad=model.learn_sigma)
        self.level_nats = level_nats(config)

    def reconstruction_loss(self, errors: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Negative log-likelihood of normalised pixels, mean over values."""
        log_sigma = self.log_sigma.to(errors.dtype)
        return 0.5 * (errors.mean() * (-2 * log_sigma).exp() + log(2 * pi)) + log_sigma

    def forward(
        self, images: Shaped[Tensor, "b c h w"], noise: Noise, progress: Float[Tensor, ""]
    ) -> Output:
        """Both terms of the bound; statistic `nll`: the bound at beta 1, of integer levels."""
        output = super().forward(images, noise, progress)
        with full_precision(images.device):
            kl = output.statistics["kl_nats"] / self.bottleneck.kl.values
            nll = output.losses["reconstruction"].detach() + kl + self.level_nats
        return output._replace(statistics={**output.statistics, "nll": nll})
