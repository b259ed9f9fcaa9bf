"""Sparse latents: the largest numbers, the largest dead ones, and counts of uses."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mae.objectives.base import Merge, StepEnd


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


def keep_largest_dead(
    latents: Float[Tensor, "b n ..."], is_dead: Shaped[Tensor, " n"], k: int
) -> DeadLatents:
    """The k largest dead latents along dimension 1 (Gao et al. 2024, appendix A.2)."""
    is_dead = is_dead.view(-1, *[1] * (latents.ndim - 2))
    found = torch.where(is_dead, latents, -torch.inf).topk(k, dim=1)
    values = torch.where(found.values.isfinite(), found.values, 0.0)
    kept = torch.zeros_like(latents).scatter(1, found.indices, values)
    return DeadLatents(kept, is_dead.any().to(latents.dtype))


class CountsUses(nn.Module):
    """Module with sparse latents that counts since when each has not been used."""

    merges: ClassVar[Mapping[str, Merge]] = {"uses": "sum", "vectors": "sum"}
    """merges of `uses_of`"""
    unused: Float[Tensor, " n"]
    """number of vectors since the last use of each latent"""

    def count_uses(self, latent_dim: int, dead_after: int) -> None:
        """Start to count; `dead_after`: vectors without a use, after which a latent is dead."""
        self.dead_after = dead_after
        self.register_buffer("unused", torch.zeros(latent_dim, dtype=torch.float64))

    def uses_of(self, is_active: Shaped[Tensor, "b n"]) -> dict[str, Tensor]:
        """Carry for `add_uses`: uses of each latent by b vectors, and their number."""
        vectors = torch.full(
            (), float(len(is_active)), dtype=torch.float64, device=is_active.device
        )
        return {"uses": is_active.sum(dim=0, dtype=torch.float64), "vectors": vectors}

    def is_dead(self) -> Shaped[Tensor, " n"]:
        """Bool: latents without a use for `dead_after` vectors."""
        return self.unused >= self.dead_after

    @torch.no_grad()
    def add_uses(self, step: StepEnd) -> None:
        """Count vectors since the last use; a skipped step counts nothing."""
        uses, vectors = step.carry["uses"], step.carry["vectors"]
        counted = torch.where(uses > 0, 0.0, self.unused + vectors)
        self.unused.copy_(torch.where(step.skipped, self.unused, counted))
