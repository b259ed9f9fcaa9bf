"""Gaussian bottlenecks: latents are drawn from a normal distribution that the encoder predicts."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.base.tensor_hashing import normals
from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.autoencoders.bottleneck import Bottleneck, Latent
from mae.objectives.base import full_precision
from mae.objectives.capabilities import LatentArray

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0
"""range of the predicted logarithm of the variance, as in the latent-diffusion autoencoders"""


def gaussian_kl(
    mean: Float[Tensor, "b ..."], log_variance: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    """KL(N(mean, variance) ‖ N(0, 1)) of each latent, in nats (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class Inferred(NamedTuple):
    """Posterior of the latents, and a draw of it."""

    mean: Float[Tensor, "b n ..."]
    log_variance: Float[Tensor, "b n ..."]
    values: Tensor
    """input of the decoder's first layer, from the drawn latents"""

    @property
    def nats(self) -> Float[Tensor, "b n"]:
        """KL divergence of each latent from the standard normal prior."""
        return gaussian_kl(self.mean, self.log_variance).flatten(1)


class KlWeight(NamedTuple):
    """Weight of the KL divergence."""

    beta: float
    warmup: float
    """share of the run over which beta rises from 0"""
    free_bits: float
    """nats per latent that cost nothing"""
    values: int
    """numbers per image, by which the KL divergence is divided as the errors are"""


class VariationalBottleneck(Bottleneck):
    """Latents with a diagonal Gaussian posterior and a standard normal prior."""

    def __init__(self, count: int, kl: KlWeight) -> None:
        """`count`: latents per image."""
        super().__init__()
        self.count, self.kl = count, kl

    def draw(self, seeds: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Standard normal numbers, one per latent."""
        return normals(seeds, self.count)

    @abstractmethod
    def infer(
        self, features: Float[Tensor, "b d gh gw"], noise: Float[Tensor, "b n"] | None
    ) -> Inferred:
        """Posterior, and the latents drawn by standard normal `noise` (None: the mean)."""

    def posterior(self, features: Float[Tensor, "b d gh gw"]) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each [b n] or [b n gh gw]."""
        return self.infer(features, None)[:2]

    def weight(self, progress: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
        """Weight of the latents' KL divergence in the loss: the same for all, or for each."""
        rise = progress / self.kl.warmup if self.kl.warmup else torch.ones_like(progress)
        return self.kl.beta * rise.clamp(max=1) / self.kl.values

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Draw latents; the loss is beta times the KL divergence per value of the image."""
        assert noise is not None
        return self.latent(self.infer(features, noise), progress)

    def latent(self, inferred: Inferred, progress: Float[Tensor, ""]) -> Latent:
        """Drawn latents with their loss and statistics."""
        with full_precision(inferred.mean.device):
            nats = inferred.nats
            # Free bits per latent, of its mean over the micro-batch as in Kingma et al. 2016,
            # would depend on the split into micro-batches; so the threshold is per sample.
            counted = nats.clamp(min=self.kl.free_bits) if self.kl.free_bits else nats
            loss = (self.weight(progress) * counted).sum(dim=1).mean()
        kl = nats.detach().sum(dim=1).mean()
        return Latent(inferred.values, {"kl": loss}, {"kl_nats": kl})

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Mean of the posterior."""
        return self.posterior(features)[0]

    def arrays(self, features: Float[Tensor, "b d gh gw"]) -> dict[str, LatentArray]:
        """Mean and standard deviation of the posterior."""
        mean, log_variance = self.posterior(features)
        return {
            "": LatentArray(mean, "mean of the latents"),
            "std": LatentArray((0.5 * log_variance).exp(), "standard deviation of the latents"),
        }


def reparameterised(mean: Tensor, log_variance: Tensor, noise: Tensor | None) -> Tensor:
    """Latents mean + σ · noise (None: the mean)."""
    if noise is None:
        return mean
    return mean + (0.5 * log_variance).exp() * noise.to(mean.dtype).view_as(mean)


class GaussianBottleneck(VariationalBottleneck):
    """Latents of one linear layer: a vector of the whole image, or a map."""

    def __init__(self, shape: MapShape, latent: str, latent_dim: int, kl: KlWeight) -> None:
        is_vector = latent == "vector"
        super().__init__(latent_dim * (1 if is_vector else shape.rows * shape.columns), kl)
        self.latent_dim = latent_dim
        self.to_latent = ToLatent(shape, latent, 2 * latent_dim)

    def infer(
        self, features: Float[Tensor, "b d gh gw"], noise: Float[Tensor, "b n"] | None
    ) -> Inferred:
        """Posterior, and the latents drawn by `noise`."""
        with full_precision(features.device):
            features = features.float() if features.dtype.itemsize < 4 else features
            mean, log_variance = self.to_latent(features).chunk(2, dim=1)
            log_variance = log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
            return Inferred(mean, log_variance, reparameterised(mean, log_variance, noise))
