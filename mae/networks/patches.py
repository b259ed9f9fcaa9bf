"""Pixels and patches: normalisation of integer images, patchify and its inverse."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mae.base.errors import UserError
from mae.decoding.pixels import FLOAT_BITS, white_of


def patchify(images: Shaped[Tensor, "b c h w"], patch_size: tuple[int, int]) -> Tensor:
    """[b c h w] → [b n p·q·c]: patches in row-major order, pixels within them too, channels last.

    Raises ValueError where the image does not divide into patches of (p, q).
    """
    b, c, h, w = images.shape
    p, q = patch_size
    if h % p or w % q:
        raise ValueError(f"an image of {h} x {w} does not divide into patches of {p} x {q}")
    grid = images.reshape(b, c, h // p, p, w // q, q)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // q), p * q * c)


def unpatchify(
    patches: Shaped[Tensor, "b n d"], img_size: tuple[int, int], patch_size: tuple[int, int]
) -> Shaped[Tensor, "b c h w"]:
    """The inverse of `patchify`; ValueError where the shapes do not match."""
    (h, w), (p, q) = img_size, patch_size
    b, n, d = patches.shape
    if n != (h // p) * (w // q) or d % (p * q):
        raise ValueError(f"{n} patches of {d} values are not an image of {h} x {w} at {p} x {q}")
    grid = patches.reshape(b, h // p, w // q, p, q, d // (p * q))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w)


def gather_tokens(tokens: Shaped[Tensor, "b n d"], ids: Int[Tensor, "b k"]) -> Tensor:
    """[b n d], [b k] → [b k d]: the tokens at indices `ids`, in that order."""
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


def patch_statistics(
    patches: Float[Tensor, "b n d"],
) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Mean and standard deviation of each patch, as in the paper's normalised targets (section 3).

    Unbiased variance, plus 1e-6 under the root, so that constant patches divide by 1e-3.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    std = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return mean, std


class Affine(NamedTuple):
    """Normalisation of integer pixels: pixel * scale + shift."""

    scale: Float[Tensor, " c"]
    shift: Float[Tensor, " c"]


def affine_of(mean: Sequence[float], std: Sequence[float], channels: int, bits: int) -> Affine:
    """Normalisation by a model of images of so many bits: the identity for floats.

    Raises UserError as `pixel_affine`.
    """
    if bits == FLOAT_BITS:
        return Affine(torch.ones(channels), torch.zeros(channels))
    return pixel_affine(mean, std, channels, white_of(bits))


def pixel_affine(mean: Sequence[float], std: Sequence[float], channels: int, white: int) -> Affine:
    """Normalisation of integers in [0, white] by `mean` and `std` of pixels in [0, 1].

    Raises UserError unless both have one value per channel.
    """
    if len(mean) != channels or len(std) != channels:
        raise UserError(
            f"data.mean, data.std: {len(mean)} and {len(std)} numbers for {channels} channels"
        )
    inverse_std = 1 / torch.tensor(std, dtype=torch.float64)
    shift = -torch.tensor(mean, dtype=torch.float64) * inverse_std
    return Affine((inverse_std / white).float(), shift.float())


def normalize_images(images: Shaped[Tensor, "b c h w"], affine: Affine) -> Float[Tensor, "b c h w"]:
    """Integer images → normalised floats; floats are returned unchanged."""
    if images.is_floating_point():
        return images
    return computable(images) * affine.scale.view(-1, 1, 1) + affine.shift.view(-1, 1, 1)


def computable(images: Shaped[Tensor, "b c h w"]) -> Shaped[Tensor, "b c h w"]:
    """uint16 images as int32, others unchanged: torch cannot compute with uint16."""
    return images.to(torch.int32) if images.dtype == torch.uint16 else images


def unit_values(images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images in the units of reconstructions: integers in [0, 1], floats as they are."""
    return images if images.is_floating_point() else images.float() / torch.iinfo(images.dtype).max


def in_range(values: Float[Tensor, "*any"], images: Shaped[Tensor, "b c h w"]) -> Tensor:
    """Values in the units of `unit_values`, cut to [0, 1] unless the images are floats."""
    return values if images.is_floating_point() else values.clamp(0, 1)
