"""Contract of a bottleneck, and the plain one: a narrow linear layer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.objectives.autoencoders.backbones import MapShape, ToLatent
from mae.objectives.base import Merge, StepEnd
from mae.objectives.capabilities import LatentArray


class Latent(NamedTuple):
    """Latents of a micro-batch in training, and what learning them adds."""

    values: Tensor
    """input of the decoder's first layer, [b n] or [b n gh gw]"""
    losses: dict[str, Tensor] = {}
    """further losses, weighted means over the micro-batch"""
    statistics: dict[str, Tensor] = {}
    """as `Output.statistics`"""
    carry: dict[str, Tensor] = {}
    """as `Output.carry`"""


class Bottleneck(nn.Module, ABC):
    """Map of features → latents.  Subclasses define `forward` and `encode`."""

    merges: ClassVar[Mapping[str, Merge]] = {}
    """merges of `Latent.carry`, as in `Objective.merges`"""
    latent_dim: int
    """numbers of a latent vector: per image, or per position of the map"""

    def draw(self, seeds: Int[Tensor, " b"]) -> Tensor | None:
        """Randomness that `forward` needs, a function of each sample's seed (default: none)."""
        return None

    @abstractmethod
    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Latents for training; a pure function of its arguments and the weights."""

    @abstractmethod
    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Latents without noise."""

    def arrays(self, features: Float[Tensor, "b d gh gw"]) -> dict[str, LatentArray]:
        """Latents as `ImageLatents.arrays`."""
        return {"": LatentArray(self.encode(features), "latents")}

    def after_step(self, step: StepEnd) -> None:  # optional
        """Update buffers after an optimizer step, as `Objective.after_step`."""


class LinearBottleneck(Bottleneck):
    """Latents as a linear map of the features."""

    def __init__(self, shape: MapShape, latent: str, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.to_latent = ToLatent(shape, latent, latent_dim)

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b n"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Latents, and nothing else to learn."""
        return Latent(self.to_latent(features))

    def encode(self, features: Float[Tensor, "b d gh gw"]) -> Tensor:
        """Latents [b n] or [b n gh gw]."""
        return self.to_latent(features)
