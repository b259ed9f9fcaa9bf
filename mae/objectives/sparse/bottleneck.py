"""Sparse bottlenecks: the k largest latents (Makhzani and Frey 2013), or an L1 penalty."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.autoencoders.bottleneck import Bottleneck, Latent
from mae.objectives.autoencoders.sparsity import (
    CountsUses,
    DeadLatents,
    keep_largest,
    keep_largest_dead,
)
from mae.objectives.base import StepEnd, full_precision


class CountedBottleneck(CountsUses, Bottleneck):
    """Sparse latents; counts since when each has not been used.

    Subclasses define `encode`.
    """

    def __init__(self, shape: MapShape, latent: str, latent_dim: int, dead_after: int) -> None:
        """`dead_after`: vectors without a single use, after which a latent counts as dead."""
        super().__init__()
        self.latent_dim = latent_dim
        self.to_latent = ToLatent(shape, latent, latent_dim)
        self.count_uses(latent_dim, dead_after)

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Sparse latents, and the number of uses of each."""
        values = self.encode(features)
        rows = values.detach().movedim(1, -1).flatten(0, -2) != 0
        with full_precision(rows.device):
            statistics = {
                "active_latents": rows.sum(dim=1).to(self.precision).mean(),
                "dead_latents": self.is_dead().to(self.precision).mean(),
            }
        return Latent(values, {}, statistics, self.uses_of(rows))

    @property
    def precision(self) -> torch.dtype:
        """Type of the statistics: that of the weights, not of autocast."""
        return self.to_latent.layer.weight.dtype

    def after_step(self, step: StepEnd) -> None:
        """Count vectors since the last use."""
        self.add_uses(step)


class TopKBottleneck(CountedBottleneck):
    """The k largest latents of each vector."""

    def __init__(
        self, shape: MapShape, latent: str, latent_dim: int, *, k: int, aux_k: int, dead_after: int
    ) -> None:
        super().__init__(shape, latent, latent_dim, dead_after)
        self.k, self.aux_k = k, min(aux_k, latent_dim)

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Sparse latents."""
        return keep_largest(self.to_latent(features), self.k)

    def dead(self, features: Float[Tensor, "b d gh gw"]) -> DeadLatents:
        """The `aux_k` largest dead latents of each vector (Gao et al. 2024, appendix A.2)."""
        return keep_largest_dead(self.to_latent(features), self.is_dead(), self.aux_k)


class L1Bottleneck(CountedBottleneck):
    """Non-negative latents, whose penalty is in `SparseAutoencoder`."""

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Non-negative latents."""
        return self.to_latent(features).relu()
