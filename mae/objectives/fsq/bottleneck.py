"""Finite scalar quantisation (Mentzer et al. 2023, section 3.1): each number is rounded alone."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.autoencoders.bottleneck import Latent
from mae.objectives.autoencoders.discrete import Quantizer, count_codes
from mae.objectives.base import full_precision

MARGIN = 1e-3
"""share by which the bounded range exceeds the outermost levels, so that they can be reached"""


class FiniteScalarQuantizer(Quantizer):
    """Rounds each number of a vector to one of its levels; straight-through gradient."""

    half_range: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor
    basis: Tensor

    def __init__(self, shape: MapShape, levels: Sequence[int]) -> None:
        super().__init__()
        self.latent_dim = len(levels)
        self.to_latent = ToLatent(shape, "map", len(levels))
        self.num_codes = prod(levels)
        sizes = torch.tensor(levels, dtype=torch.float64)
        half_range = (sizes - 1) * (1 + MARGIN) / 2
        offset = torch.where(sizes % 2 == 0, 0.5, 0.0)
        self.sizes = tuple(levels)
        constants = {
            "half_range": half_range,
            "offset": offset,  # an even number of levels has none at 0
            "shift": (offset / half_range).atanh(),
            "half_width": (sizes / 2).floor(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)
        basis = [prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def bounded(self, features: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b gh gw n"]:
        """Numbers within the range of their levels, in full precision."""
        latents = self.to_latent(features)
        with full_precision(features.device):
            numbers = latents.to(self.shift.dtype).movedim(1, -1)
            return (numbers + self.shift).tanh() * self.half_range - self.offset

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b m"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Rounded numbers with the gradient of the bounded ones, in [-1, 1]."""
        bounded = self.bounded(features)
        with full_precision(features.device):
            rounded = bounded + (bounded.round() - bounded).detach()
            uses = count_codes(self._index(bounded.detach().round()), self.num_codes)
            values = rounded / self.half_width
        return Latent(values.movedim(-1, 1), {}, {"uses": uses})

    def codes(self, features: Float[Tensor, "b d gh gw"]) -> Int[Tensor, "b gh gw"]:
        """Code of each position: its levels as digits, the first the lowest."""
        return self._index(self.bounded(features).round())

    def _index(self, rounded: Float[Tensor, "b gh gw n"]) -> Int[Tensor, "b gh gw"]:
        return ((rounded + self.half_width).long() * self.basis).sum(dim=-1)

    def embed(self, codes: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b n gh gw"]:
        """Numbers of the codes, in [-1, 1]."""
        sizes = torch.tensor(self.sizes, device=codes.device)
        digits = codes[..., None] // self.basis % sizes
        return ((digits.to(self.half_width.dtype) - self.half_width) / self.half_width).movedim(
            -1, 1
        )
