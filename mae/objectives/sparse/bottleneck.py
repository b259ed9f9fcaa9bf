"""Sparse bottlenecks: the k largest latents (Makhzani and Frey 2013), or an L1 penalty."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.autoencoders.bottleneck import Bottleneck, Latent
from mae.objectives.base import Merge, StepEnd, full_precision


def keep_largest(latents: Float[Tensor, "b n ..."], k: int) -> Float[Tensor, "b n ..."]:
    """Zero all but the k largest numbers along dimension 1."""
    found = latents.topk(k, dim=1)
    return torch.zeros_like(latents).scatter(1, found.indices, found.values)


class DeadLatents(NamedTuple):
    """Latents in which only the largest dead ones are not zero."""

    values: Tensor
    """[b n] or [b n gh gw]"""
    any_dead: Tensor
    """1.0 where there is a dead latent, else 0.0; 0-d"""


class CountedBottleneck(Bottleneck):
    """Sparse latents; counts since when each has not been used.

    Subclasses define `encode`.
    """

    merges: ClassVar[Mapping[str, Merge]] = {"uses": "sum", "vectors": "sum"}
    unused: Tensor
    """number of vectors since the last use of each latent"""

    def __init__(self, shape: MapShape, latent: str, latent_dim: int, dead_after: int) -> None:
        """`dead_after`: vectors without a single use, after which a latent counts as dead."""
        super().__init__()
        self.latent_dim = latent_dim
        self.to_latent = ToLatent(shape, latent, latent_dim)
        self.dead_after = dead_after
        self.register_buffer("unused", torch.zeros(latent_dim, dtype=torch.float64))

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Sparse latents, and the number of uses of each."""
        values = self.encode(features)
        rows = values.detach().movedim(1, -1).flatten(0, -2) != 0
        carry = {
            "uses": rows.sum(dim=0, dtype=torch.float64),
            "vectors": torch.full((), float(len(rows)), dtype=torch.float64, device=rows.device),
        }
        with full_precision(rows.device):
            statistics = {
                "active_latents": rows.sum(dim=1).to(self.precision).mean(),
                "dead_latents": self.is_dead().to(self.precision).mean(),
            }
        return Latent(values, {}, statistics, carry)

    @property
    def precision(self) -> torch.dtype:
        """Type of the statistics: that of the weights, not of autocast."""
        return self.to_latent.layer.weight.dtype

    def is_dead(self) -> Tensor:
        """Bool [n]: latents without a use for `dead_after` vectors."""
        return self.unused >= self.dead_after

    @torch.no_grad()
    def after_step(self, step: StepEnd) -> None:
        """Count vectors since the last use; a skipped step counts nothing."""
        uses, vectors = step.carry["uses"], step.carry["vectors"]
        counted = torch.where(uses > 0, 0.0, self.unused + vectors)
        self.unused.copy_(torch.where(step.skipped, self.unused, counted))


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
        latents = self.to_latent(features)
        is_dead = self.is_dead().view(-1, *[1] * (latents.ndim - 2))
        found = torch.where(is_dead, latents, -torch.inf).topk(self.aux_k, dim=1)
        values = torch.where(found.values.isfinite(), found.values, 0.0)
        kept = torch.zeros_like(latents).scatter(1, found.indices, values)
        return DeadLatents(kept, is_dead.any().to(latents.dtype))


class L1Bottleneck(CountedBottleneck):
    """Non-negative latents, whose penalty is in `SparseAutoencoder`."""

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Non-negative latents."""
        return self.to_latent(features).relu()
