"""Ladder of Gaussian groups (Sønderby et al. 2016, arXiv:1602.02282; NVAE, arXiv:2007.03898).

A state goes down from the coarsest grid to the finest.  At each grid it gives the prior of a group
of latents z = μ + σ · ε, ε standard normal; the posterior is relative to the prior, and z goes into
the state (NVAE, section 3.2).  The latents of this module are the ε: those of a ladder are standard
normal as those of any variational autoencoder, and KL(q(z) ‖ p(z)) = KL(q(ε) ‖ N(0, 1)).
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.networks.convolutional import GROUPS, ConvDecoder, ConvEncoder, ResidualBlock
from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.autoencoders.bottleneck import Latent
from mae.objectives.autoencoders.gaussian import (
    MAX_LOG_VARIANCE,
    MIN_LOG_VARIANCE,
    Inferred,
    KlWeight,
    VariationalBottleneck,
    reparameterised,
)
from mae.objectives.base import Merge, StepEnd, full_precision

MOST_LOG_SIGMA = 5.0
"""bound of the prior's log σ, by tanh (NVAE, appendix A)"""

DECAY = 0.9
"""decay per step of the moving averages of the groups' KL divergences"""

LEAST = 0.01
"""added to the nats per latent that a group is weighed by, so that none is left out"""


class LatentGroup(nn.Module):
    """Prior, posterior and contribution of the latents at one grid."""

    def __init__(self, channels: int, numbers: int, is_first: bool) -> None:
        """`numbers` per position; the first group's prior is the standard normal itself."""
        super().__init__()
        self.prior_block = None if is_first else ResidualBlock(channels)
        self.prior = None if is_first else nn.Conv2d(channels, 2 * numbers, 1)
        self.posterior_block = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), ResidualBlock(channels)
        )
        self.posterior = nn.Conv2d(channels, 2 * numbers, 1)
        self.enter = nn.Conv2d(numbers, channels, 1)

    def infer(
        self, state: Float[Tensor, "b d h w"], features: Float[Tensor, "b d h w"]
    ) -> tuple[Float[Tensor, "b n h w"], Float[Tensor, "b n h w"]]:
        """Mean and logarithm of the variance of the posterior, in units of the prior."""
        both = self.posterior_block(torch.cat([state.to(features.dtype), features], dim=1))
        with full_precision(state.device):
            mean, log_variance = self.posterior(both.to(self.posterior.weight.dtype)).chunk(2, 1)
            return mean, log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def value(
        self, state: Float[Tensor, "b d h w"], latents: Float[Tensor, "b n h w"]
    ) -> Float[Tensor, "b n h w"]:
        """Values z = μ + σ · ε by the prior given the state."""
        if self.prior is None or self.prior_block is None:
            return latents
        seen = self.prior_block(state)
        with full_precision(state.device):
            mean, log_sigma = self.prior(seen.to(self.prior.weight.dtype)).chunk(2, dim=1)
            sigma = (MOST_LOG_SIGMA * (log_sigma / MOST_LOG_SIGMA).tanh()).exp()
            return mean + sigma * latents


class LadderBottleneck(VariationalBottleneck):
    """Groups of latents from the coarsest grid to that of the encoder, each twice as fine."""

    merges: ClassVar[Mapping[str, Merge]] = {"group_nats": "sum", "images": "sum"}
    usual_nats: Float[Tensor, " groups"]
    """moving average of each group's KL divergence, nats per image"""
    counts: Tensor
    """latents of each group"""
    group_of: Tensor
    """group of each latent"""

    def __init__(
        self,
        shape: MapShape,
        numbers: Sequence[int],
        *,
        kl: KlWeight,
        depth: int,
        balance: bool,
    ) -> None:
        """`numbers` per position of each group; `depth`: residual blocks between two grids.

        Raises UserError for a map that cannot be halved as often.
        """
        channels, rows, columns = shape
        coarsest = 2 ** (len(numbers) - 1)
        if rows % coarsest or columns % coarsest or channels % GROUPS:
            raise UserError(
                f"model.groups: {len(numbers)} groups need a grid that divides by {coarsest}, with "
                f"channels that divide by {GROUPS}: this one has {rows} x {columns} positions of "
                f"{channels} channels"
            )
        strides = [coarsest // 2**place for place in range(len(numbers))]
        grids = [(rows // stride, columns // stride) for stride in strides]
        shapes = [(count, *grid) for count, grid in zip(numbers, grids, strict=True)]
        super().__init__(sum(map(prod, shapes)), kl)
        self.shapes, self.sizes = shapes, [prod(one) for one in shapes]
        self.latent_dim = channels
        self.balance = balance
        between = range(len(numbers) - 1)
        self.down = nn.ModuleList(ConvEncoder(channels, channels, 1, depth) for _ in between)
        self.up = nn.ModuleList(ConvDecoder(channels, channels, 1, depth) for _ in between)
        self.groups = nn.ModuleList(
            LatentGroup(channels, count, is_first=not place) for place, count in enumerate(numbers)
        )
        self.start = nn.Parameter(0.02 * torch.randn(1, channels, *grids[0]))
        self.register_buffer("usual_nats", torch.zeros(len(numbers)))
        counts = torch.tensor(self.sizes)
        group_of = torch.arange(len(numbers)).repeat_interleave(counts)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("group_of", group_of, persistent=False)

    def bottom_up(self, features: Float[Tensor, "b d gh gw"]) -> list[Float[Tensor, "b d _ _"]]:
        """Features at each grid, the coarsest first."""
        maps = [features]
        for halve in self.down:
            maps.append(halve(maps[-1]))
        return maps[::-1]

    def by_group(self, latents: Float[Tensor, "b n"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Latents in a row → map of each group."""
        parts = latents.split(self.sizes, dim=1)
        return [one.unflatten(1, shape) for one, shape in zip(parts, self.shapes, strict=True)]

    def next_state(self, place: int, state: Tensor, latents: Tensor) -> Float[Tensor, "b d _ _"]:
        """State with the latents of group `place`, at the next group's grid if there is one."""
        group = self.groups[place]
        assert isinstance(group, LatentGroup)
        state = state + group.enter(group.value(state, latents))
        return self.up[place](state) if place < len(self.up) else state

    def infer(
        self, features: Float[Tensor, "b d gh gw"], noise: Float[Tensor, "b n"] | None
    ) -> Inferred:
        """Posterior of each group given the draws of those before it, and the last state."""
        maps = self.bottom_up(features)
        drawn = self.by_group(noise) if noise is not None else [None] * len(maps)
        state = self.start.expand(features.shape[0], -1, -1, -1)
        means, log_variances = [], []
        for place, group in enumerate(self.groups):
            assert isinstance(group, LatentGroup)
            mean, log_variance = group.infer(state, maps[place])
            latents = reparameterised(mean, log_variance, drawn[place])
            state = self.next_state(place, state, latents)
            means.append(mean.flatten(1))
            log_variances.append(log_variance.flatten(1))
        return Inferred(torch.cat(means, 1), torch.cat(log_variances, 1), state)

    def states(self, latents: Float[Tensor, "b n"]) -> Float[Tensor, "b d gh gw"]:
        """Latents in a row → last state: the input of the decoder's first layer."""
        state = self.start.expand(latents.shape[0], -1, -1, -1)
        for place, part in enumerate(self.by_group(latents)):
            state = self.next_state(place, state, part)
        return state

    def parts(self) -> Mapping[str, slice]:
        """Latents of each group."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        pairs = zip(ends, self.sizes, strict=True)
        return {f"group {i}": slice(e - n, e) for i, (e, n) in enumerate(pairs, start=1)}

    def nats_by_group(self, nats: Float[Tensor, "b n"]) -> Float[Tensor, " groups"]:
        """Sum over images and latents of the KL divergence in each group."""
        return torch.stack([one.sum() for one in nats.double().split(self.sizes, dim=1)])

    def weight(self, progress: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
        """Weight of each latent's KL divergence; balanced between the groups while beta rises.

        In proportion to the usual nats per latent of its group, 1 on average over the groups (NVAE,
        appendix A).  They are those of the steps before: those of the micro-batch would depend on
        the split of the batch.
        """
        common = super().weight(progress)
        if not (self.balance and self.kl.warmup):
            return common
        usual = self.usual_nats / self.counts + LEAST
        balanced = torch.where(progress < self.kl.warmup, usual / usual.mean(), 1.0)
        return common * balanced[self.group_of]

    def latent(self, inferred: Inferred, progress: Float[Tensor, ""]) -> Latent:
        """Drawn latents with their loss, and statistics of the groups."""
        found = super().latent(inferred, progress)
        with full_precision(inferred.mean.device):
            nats = self.nats_by_group(inferred.nats.detach())
        images = torch.full_like(nats[0], len(inferred.mean))
        sums = {"group_nats": nats, "images": images}
        return found._replace(statistics={**found.statistics, **sums}, carry=sums)

    @torch.no_grad()
    def after_step(self, step: StepEnd) -> None:
        """Move the averages of the groups' KL divergences."""
        nats = (step.carry["group_nats"] / step.carry["images"]).to(self.usual_nats.dtype)
        moved = self.usual_nats.lerp(nats, 1 - DECAY)
        self.usual_nats.copy_(torch.where(step.skipped, self.usual_nats, moved))
