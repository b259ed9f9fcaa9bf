"""Gaussian latents that keep the moments of each channel, by which diffusion models scale them."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.autoencoders.bottleneck import Latent
from mae.objectives.autoencoders.gaussian import GaussianBottleneck, KlWeight
from mae.objectives.base import Merge, StepEnd
from mae.objectives.kl.moments import LatentScale, scale_of

DECAY = 0.99
"""factor per step of earlier steps in the moments: they are those of about the last 100 steps"""


def channel_moments(latents: Float[Tensor, "b n gh gw"]) -> Float[Tensor, " three_n"]:
    """Count, sum and sum of squares of each channel, one after another, float64."""
    values = latents.detach().double().movedim(1, 0).flatten(1)
    count = torch.full_like(values[:, 0], values.shape[1])
    return torch.cat([count, values.sum(dim=1), values.square().sum(dim=1)])


class KlBottleneck(GaussianBottleneck):
    """Gaussian bottleneck, a map of latents, with their moments over the last training images."""

    merges: ClassVar[Mapping[str, Merge]] = {"latents": "sum"}
    moments: Tensor

    def __init__(self, shape: MapShape, latent_dim: int, *, weight: float, values: int) -> None:
        """`weight` of the KL divergence; `values`: numbers per image."""
        super().__init__(
            shape, "map", latent_dim, KlWeight(weight, warmup=0.0, free_bits=0.0, values=values)
        )
        self.register_buffer("moments", torch.zeros(3 * latent_dim, dtype=torch.float64))

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Draw latents; their moments are statistic and carry."""
        latent = super().forward(features, noise, progress)
        moments = channel_moments(latent.values)
        statistics = {**latent.statistics, "latents": moments}
        return latent._replace(statistics=statistics, carry={"latents": moments})

    def after_step(self, step: StepEnd) -> None:
        """Add the step's moments to the decayed earlier ones, unless the step was skipped."""
        updated = DECAY * self.moments + step.carry["latents"]
        self.moments.copy_(torch.where(step.skipped, self.moments, updated))

    def scale(self) -> LatentScale | None:
        """Moments of the latents; None before the first step."""
        return scale_of(self.moments.tolist())
