"""Corruptions of images, for denoising: pixels in [0, 1], noise from each sample's seed."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mae.base.tensor_hashing import normals, uniforms

CorruptionName = Literal["gaussian", "masking", "salt_and_pepper"]


class Corruption(NamedTuple):
    """Kind and strength of a corruption (Vincent et al. 2010, section 3.3)."""

    name: CorruptionName
    strength: float
    """gaussian: standard deviation, of pixels in [0, 1]; else share of the pixels"""

    def draw(
        self, seeds: Int[Tensor, " b"], shape: tuple[int, int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Noise of images of `shape` (channels, height, width), a function of the seeds.

        Normal numbers for every value, or one uniform number in (0, 1) per pixel.
        """
        channels, height, width = shape
        if self.name == "gaussian":
            return normals(seeds, channels * height * width).view(-1, *shape)
        return uniforms(seeds, height * width).view(-1, 1, height, width)

    def apply(
        self, pixels: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Corrupted pixels.

        gaussian: noise added, not clipped.  masking: pixels set to 0.  salt_and_pepper: half of
        the chosen pixels set to 1, half to 0.
        """
        noise = noise.to(pixels.dtype)
        if self.name == "gaussian":
            return pixels + self.strength * noise
        chosen = noise < self.strength
        if self.name == "masking":
            return torch.where(chosen, 0.0, pixels)
        extreme = (noise < self.strength / 2).to(pixels.dtype)
        return torch.where(chosen, extreme, pixels)
