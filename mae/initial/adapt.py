"""Tensors whose shape depends on the images, made to fit others, the way timm does it."""

import math
from collections.abc import Iterable

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models._manipulate import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.base.errors import UserError
from mae.initial.geometry import Grid, grid_of
from mae.networks.vit import position_embedding, sincos_positions

PATCHES, POSITIONS = "patch_embed.proj.weight", "pos_embed"


def patch_projection(
    tensor: Tensor,
    own: Tensor,
    where: str,
    adapt_channels: bool,
    adapt_size: bool,
    notes: list[str],
) -> Tensor:
    """The patch projection [d c p q] in the shape of `own`: other channels, other patches.

    What was done is appended to `notes`.  Raises UserError where it may not be done.  A tensor
    that differs in more than that comes back as it is.
    """
    if tensor.ndim != 4 or len(tensor) != len(own):
        return tensor
    differ = f"{where}: {shapes(PATCHES, tensor, own)}"
    channels, new_channels = tensor.shape[1], own.shape[1]
    if channels != new_channels:
        if channels != 3:
            raise UserError(f"{differ}: only 3 channels can be adapted to others")
        if not adapt_channels:
            raise UserError(f"{differ}: init.adapt_channels=true adapts it")
        tensor = adapt_input_conv(new_channels, tensor)
        notes.append(f"patch projection adapted from 3 to {new_channels} channels")
    if tensor.shape != own.shape:
        if not adapt_size:
            raise UserError(f"{differ}: init.adapt_size=true adapts it")
        notes.append(f"patches resampled from {_size(tensor.shape[2:])} to {_size(own.shape[2:])}")
        tensor = resample_patch_embed(tensor.float(), list(own.shape[2:]))
    return tensor


def encoder_positions(
    tensor: Tensor,
    vit: VisionTransformer,
    old_grid: Grid | None,
    where: str,
    adapt_size: bool,
    notes: list[str],
) -> Tensor:
    """The position embedding [1 tokens d] for the patches of `vit`.

    `old_grid` are the rows and columns that it was for; None: unknown, and taken as square where
    their number is another.  As `patch_projection` otherwise.
    """
    own, grid = position_embedding(vit), grid_of(vit)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if tensor.ndim != 3 or tensor.shape[2] != own.shape[2]:
        return tensor
    if tensor.shape == own.shape and old_grid in (None, grid):
        recipe = sincos_positions(own.shape[2], grid, prefix)
        if not own.requires_grad and not torch.allclose(tensor.float(), recipe, atol=1e-3):
            notes.append("positions are the source's, not sine and cosine; they stay fixed")
        return tensor
    differ = f"{where}: {shapes(POSITIONS, tensor, own)}"
    patches = tensor.shape[1] - prefix
    old_grid = old_grid or square_grid(patches)
    if old_grid is None or math.prod(old_grid) != patches:
        raise UserError(f"{differ}, with {prefix} before those of the patches: no grid fits that")
    if not adapt_size:
        raise UserError(
            f"{differ} ({_size(old_grid)} patches, now {_size(grid)}): init.adapt_size=true "
            "interpolates it"
        )
    notes.append(f"positions resampled from {_size(old_grid)} to {_size(grid)} patches")
    return resample_abs_pos_embed(tensor, list(grid), list(old_grid), prefix)


def shapes(key: str, tensor: Tensor, own: Tensor) -> str:
    """How two tensors of one name differ."""
    return f"{key} has shape {list(tensor.shape)}, the model's has {list(own.shape)}"


def square_grid(patches: int) -> Grid | None:
    """Rows and columns of so many patches, if they fill a square."""
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None


def _size(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))
