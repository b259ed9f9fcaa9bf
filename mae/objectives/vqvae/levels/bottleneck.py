"""Quantiser with two levels (Razavi et al. 2019, section 3.1): the top conditions the bottom.

The map of features is halved and quantised: the top level.  Its vectors, doubled again, join the
features, from which the bottom level is quantised: it need only hold what the top does not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.base.hashing import fold
from mae.base.tensor_hashing import mix_tensor
from mae.networks.convolutional import GROUPS, ConvDecoder, ConvEncoder
from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.autoencoders.bottleneck import Latent
from mae.objectives.autoencoders.discrete import Quantizer
from mae.objectives.base import Merge, StepEnd
from mae.objectives.vqvae.bottleneck import VectorQuantizer
from mae.objectives.vqvae.levels.declaration import LEVELS

NewQuantizer = Callable[[MapShape], VectorQuantizer]
"""vector quantiser of a map of features of this shape"""


class Vectors(NamedTuple):
    """Quantised vectors of both levels."""

    top: Float[Tensor, "b n th tw"]
    bottom: Float[Tensor, "b n gh gw"]


class TwoLevelQuantizer(Quantizer):
    """Two vector quantisers, each with a codebook of its own.

    Codes are [b 5 gh/2 gw/2]: the top code, then the four bottom codes of its square by rows.
    """

    levels = LEVELS

    def __init__(self, shape: MapShape, new_quantizer: NewQuantizer, depth: int) -> None:
        """`depth`: residual blocks between the levels.

        Raises UserError for a map that cannot be halved.
        """
        super().__init__()
        channels, rows, columns = shape
        if rows % 2 or columns % 2 or channels % GROUPS:
            raise UserError(
                f"two levels need an even grid, with channels that divide by {GROUPS}: this one "
                f"has {rows} x {columns} positions of {channels} channels"
            )
        top = MapShape(channels, rows // 2, columns // 2)
        self.down = ConvEncoder(channels, channels, 1, depth)
        self.top = new_quantizer(top)
        vector = self.top.latent_dim
        self.widen = nn.Conv2d(vector, channels, 1)
        self.up = ConvDecoder(vector, channels, 1, depth)
        self.bottom = new_quantizer(MapShape(channels + vector, rows, columns))
        self.num_codes = self.top.num_codes
        self.latent_dim = 2 * vector

    @property
    def quantizers(self) -> tuple[VectorQuantizer, VectorQuantizer]:
        """Quantisers of the levels, in their order."""
        return self.top, self.bottom

    @property
    def merges(self) -> Mapping[str, Merge]:  # pyrefly: ignore
        """Merges of both levels' carry."""
        return by_level([one.merges for one in self.quantizers])

    def draw(self, seeds: Int[Tensor, " b"]) -> Int[Tensor, "b m"]:
        """Positions of both levels' candidate vectors."""
        return torch.cat([self.top.draw(seeds), self.bottom.draw(mix_tensor(seeds))], dim=1)

    def forward(
        self,
        features: Float[Tensor, "b d gh gw"],
        noise: Shaped[Tensor, "b m"] | None,
        progress: Float[Tensor, ""],
    ) -> Latent:
        """Quantised vectors of both levels with the gradients of the vectors themselves."""
        assert noise is not None
        drawn = noise.split([noise.shape[1] - self.bottom.candidates, self.bottom.candidates], 1)
        top = self.top(self.down(features), drawn[0], progress)
        raised = self.raised(top.values)
        bottom = self.bottom(self.conditioned(features, raised), drawn[1], progress)
        latents = top, bottom
        return Latent(
            self.joined(raised, bottom.values),
            by_level([one.losses for one in latents]),
            by_level([one.statistics for one in latents]),
            by_level([one.carry for one in latents]),
        )

    def raised(self, top: Float[Tensor, "b n th tw"]) -> Float[Tensor, "b n gh gw"]:
        """Vectors of the top level at the bottom's positions."""
        return self.up(self.widen(top))

    def conditioned(
        self, features: Float[Tensor, "b d gh gw"], raised: Float[Tensor, "b n gh gw"]
    ) -> Float[Tensor, "b d+n gh gw"]:
        """Input of the bottom quantiser."""
        return torch.cat([features, raised.to(features.dtype)], dim=1)

    def joined(
        self, raised: Float[Tensor, "b n gh gw"], bottom: Float[Tensor, "b n gh gw"]
    ) -> Float[Tensor, "b 2n gh gw"]:
        """Input of the decoder."""
        return torch.cat([raised.to(bottom.dtype), bottom], dim=1)

    def codes(self, features: Float[Tensor, "b d gh gw"]) -> Int[Tensor, "b 5 th tw"]:
        """Codes of both levels."""
        top = self.top.codes(self.down(features))
        raised = self.raised(self.top.embed(top))
        bottom = self.bottom.codes(self.conditioned(features, raised))
        return self.join((top, bottom))

    def split(self, codes: Int[Tensor, "b 5 th tw"]) -> Sequence[Int[Tensor, "b _ _"]]:
        """Maps of the top codes and of the bottom codes."""
        # Not by PixelShuffle, which onnxruntime has for floats only.
        squares = codes[:, 1:].unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2)
        return codes[:, 0], squares.flatten(3, 4).flatten(1, 2)

    def join(self, maps: Sequence[Int[Tensor, "b _ _"]]) -> Int[Tensor, "b 5 th tw"]:
        """Codes from the maps of both levels."""
        top, bottom = maps
        squares = bottom.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 2, 4, 1, 3)
        return torch.cat([top[:, None], squares.flatten(1, 2)], dim=1)

    def vectors(self, codes: Int[Tensor, "b 5 th tw"]) -> Vectors:
        """Vectors of the codes."""
        top, bottom = self.split(codes)
        return Vectors(self.top.embed(top), self.bottom.embed(bottom))

    def from_vectors(self, vectors: Vectors) -> Float[Tensor, "b 2n gh gw"]:
        """Input of the decoder from the vectors of both levels."""
        return self.joined(self.raised(vectors.top), vectors.bottom)

    def embed(self, codes: Int[Tensor, "b 5 th tw"]) -> Float[Tensor, "b 2n gh gw"]:
        """Input of the decoder from the codes."""
        return self.from_vectors(self.vectors(codes))

    def alone(self, codes: Int[Tensor, "b 5 th tw"]) -> Sequence[Float[Tensor, "b 2n gh gw"]]:
        """Input of the decoder from each level alone; the other's vectors are their mean."""
        whole = self.vectors(codes)
        top = whole._replace(bottom=self.bottom.mean_vector.expand_as(whole.bottom))
        bottom = whole._replace(top=self.top.mean_vector.expand_as(whole.top))
        return self.from_vectors(top), self.from_vectors(bottom)

    def after_step(self, step: StepEnd) -> None:
        """Move both codebooks; their draws are independent."""
        for number, (level, one) in enumerate(zip(LEVELS, self.quantizers, strict=True)):
            carry = {key: step.carry[level.key(key)] for key in one.merges}
            seed = int(fold(step.seed, number)[0])
            one.after_step(step._replace(seed=seed, carry=carry))


def by_level(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Values of each level by the keys of its figures."""
    pairs = zip(LEVELS, parts, strict=True)
    return {level.key(key): value for level, part in pairs for key, value in part.items()}
