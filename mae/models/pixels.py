"""From the integers of a batch to the normalised numbers that a model computes with."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mae.base.errors import UserError


class Affine(NamedTuple):
    """normalised = pixel * scale + shift, for integer pixels from black, 0, to white."""

    scale: Float[Tensor, " c"]
    shift: Float[Tensor, " c"]


def pixel_affine(mean: Sequence[float], std: Sequence[float], channels: int, white: int) -> Affine:
    """From `mean` and `std` of pixels in [0, 1]; UserError unless they are one per channel."""
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"data.mean, data.std: {len(mean)} and {len(std)} numbers for {channels} channels"
        )
    inverse_std = 1 / torch.tensor(std, dtype=torch.float64)
    shift = -torch.tensor(mean, dtype=torch.float64) * inverse_std
    return Affine((inverse_std / white).float(), shift.float())


def normalize_images(images: Shaped[Tensor, "b c h w"], affine: Affine) -> Float[Tensor, "b c h w"]:
    """Integer images to normalised floats; floats pass unchanged."""
    if images.is_floating_point():
        return images
    return computable(images) * affine.scale.view(-1, 1, 1) + affine.shift.view(-1, 1, 1)


def computable(images: Shaped[Tensor, "b c h w"]) -> Shaped[Tensor, "b c h w"]:
    """The same numbers in a type that torch computes with: it only stores and copies uint16."""
    return images.to(torch.int32) if images.dtype == torch.uint16 else images
