"""Bottleneck whose latents a critic matches to N(0, 1) (Makhzani et al. 2015, section 2)."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.tensor_hashing import normals
from mae.objectives.autoencoders.adversarial import (
    SpectralNorm,
    frozen_call,
    update_spectral_norms,
)
from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.autoencoders.bottleneck import Latent, LinearBottleneck
from mae.objectives.base import StepEnd, full_precision


class MaxMin(nn.Module):
    """Sorts numbers in pairs: of Lipschitz constant 1, and keeps the gradient's norm.

    Anil et al. 2019 (arXiv:1811.05381), section 4.2: with ReLU a critic of Lipschitz constant 1
    falls short of the Wasserstein distance.
    """

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """[b n] → [b n], the larger ones first."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


def build_critic(inputs: int, width: int) -> nn.Sequential:
    """Critic of Lipschitz constant 1, [b inputs] → [b 1]: two hidden layers."""
    return nn.Sequential(
        SpectralNorm(nn.Linear(inputs, width)),
        MaxMin(),
        SpectralNorm(nn.Linear(width, width)),
        MaxMin(),
        SpectralNorm(nn.Linear(width, 1, bias=False)),  # a bias would cancel in the distance
    )


class AdversarialBottleneck(LinearBottleneck):
    """Linear latents; a critic estimates their Wasserstein distance from the prior.

    The critic maximises the difference of its means over prior and latents (Arjovsky et al. 2017,
    equation 2), the encoder minimises it.
    """

    def __init__(
        self, shape: MapShape, latent_dim: int, *, adv: float, adv_warmup: float, critic_width: int
    ) -> None:
        """`adv`: weight of the critic in the encoder's loss, from `adv_warmup` of the run on."""
        super().__init__(shape, "vector", latent_dim)
        self.critic = build_critic(latent_dim, critic_width)
        self.adv, self.adv_warmup = adv, adv_warmup

    def draw(self, seeds: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Samples of the prior, one per image."""
        return normals(seeds, self.latent_dim)

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Latents, with the losses of the critic and, rising with `progress`, of the encoder."""
        assert noise is not None
        latents = self.to_latent(features)
        with full_precision(features.device):
            values = latents.float() if latents.dtype.itemsize < 4 else latents
            prior = noise.to(values.dtype)
            distance = self.critic(prior).mean() - self.critic(values.detach()).mean()
            rise = progress / self.adv_warmup if self.adv_warmup else torch.ones_like(progress)
            weight = self.adv * rise.clamp(max=1)
            losses = {
                "critic": -distance,
                "generator": -weight * frozen_call(self.critic, values).mean(),
            }
        return Latent(latents, losses, {"distance": distance.detach()})

    def after_step(self, step: StepEnd) -> None:
        """Update the spectral norms of the critic's layers."""
        update_spectral_norms(self.critic, step)
