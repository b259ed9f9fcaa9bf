"""Gaussian bottleneck: latents are drawn from a normal distribution that the encoder predicts."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.base.tensor_hashing import normals
from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.autoencoders.bottleneck import Bottleneck, Latent
from mae.objectives.base import full_precision

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0
"""range of the predicted logarithm of the variance, as in the latent-diffusion autoencoders"""


def gaussian_kl(
    mean: Float[Tensor, "b ..."], log_variance: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    """KL(N(mean, variance) ‖ N(0, 1)) of each latent, in nats (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class GaussianBottleneck(Bottleneck):
    """Diagonal Gaussian posterior, reparameterised: mean + σ · noise."""

    def __init__(
        self,
        shape: MapShape,
        latent: str,
        latent_dim: int,
        *,
        beta: float,
        beta_warmup: float,
        free_bits: float,
        values: int,
    ) -> None:
        """`values`: numbers per image, by which the KL divergence is divided as the errors are."""
        super().__init__()
        self.latent_dim = latent_dim
        self.to_latent = ToLatent(shape, latent, 2 * latent_dim)
        self.count = latent_dim if latent == "vector" else latent_dim * shape.rows * shape.columns
        self.beta, self.beta_warmup, self.free_bits = beta, beta_warmup, free_bits
        self.values = values

    def draw(self, seeds: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Standard normal numbers, one per latent."""
        return normals(seeds, self.count)

    def posterior(self, features: Float[Tensor, "b d gh gw"]) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each [b n] or [b n gh gw]."""
        mean, log_variance = self.to_latent(features).chunk(2, dim=1)
        return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Draw latents; the loss is beta times the KL divergence per value of the image."""
        assert noise is not None
        with full_precision(features.device):
            features = features.float() if features.dtype.itemsize < 4 else features
            mean, log_variance = self.posterior(features)
            nats = gaussian_kl(mean, log_variance).flatten(1)
            # Free bits per latent, of its mean over the micro-batch as in Kingma et al. 2016,
            # would depend on the split into micro-batches; so the threshold is per sample.
            counted = nats.clamp(min=self.free_bits) if self.free_bits else nats
            rise = progress / self.beta_warmup if self.beta_warmup else torch.ones_like(progress)
            weight = self.beta * rise.clamp(max=1) / self.values
            sample = mean + (0.5 * log_variance).exp() * noise.to(mean.dtype).view_as(mean)
        kl = nats.detach().sum(dim=1).mean()
        return Latent(sample, {"kl": weight * counted.sum(dim=1).mean()}, {"kl_nats": kl})

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Mean of the posterior."""
        return self.posterior(features)[0]
