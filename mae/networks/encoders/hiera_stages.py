"""Stages of timm's Hiera: widths, resolutions, and their fusion for the decoder."""

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from timm.models.hiera import Hiera
from torch import Tensor, nn

from mae.networks.initial_weights import initialize_linears


class Fusion(nn.Module):
    """Stages of a Hiera, each mapped to the resolution and width of the last.

    The paper's convolutions over the tokens of a unit, written as linear layers: in timm's order
    the tokens that become one are [count, unit], whatever the stage.
    """

    def __init__(self, counts: Sequence[int], widths: Sequence[int], width: int) -> None:
        """`counts`: tokens of each stage that become one; `widths`: theirs; `width`: the last's."""
        super().__init__()
        self.counts = tuple(counts)
        self.stages = nn.ModuleList(
            nn.Linear(count * own, width) for count, own in zip(counts, widths, strict=True)
        )
        initialize_linears(self)

    def forward(self, features: Sequence[Float[Tensor, "b _ _"]]) -> list[Float[Tensor, "b k d"]]:
        """Tokens after each of these stages, in timm's order → as many as after the last."""
        return [
            stage(tokens.unflatten(1, (count, -1)).transpose(1, 2).flatten(2))
            for count, stage, tokens in zip(self.counts, self.stages, features, strict=True)
        ]


def unit_tokens(encoder: Hiera) -> int:
    """Tokens of a mask unit after the last block."""
    return math.prod(encoder.mask_unit_size) // math.prod(encoder.q_stride) ** encoder.q_pool


def unit_of(encoder: Hiera, patches: Int[Tensor, "b k"]) -> Int[Tensor, "b k"]:
    """Mask unit of each patch, both counted by rows."""
    sides = zip(encoder.mask_unit_size, encoder.q_stride, strict=True)
    height, width = (unit // step**encoder.q_pool for unit, step in sides)
    columns = encoder.mask_spatial_shape[1]
    row, column = patches // (columns * width), patches % (columns * width)
    return row // height * columns + column // width


def by_patches(tokens: Float[Tensor, "b t d"], per_unit: int) -> Float[Tensor, "b t d"]:
    """Tokens in timm's order, [token of the unit, unit] → [unit, token of the unit]."""
    if per_unit == 1:
        return tokens
    return tokens.unflatten(1, (per_unit, -1)).transpose(1, 2).flatten(1, 2)


def stage_widths(encoder: Hiera) -> list[int]:
    """Widths of the tokens after each stage, and after the last block that is left."""
    blocks: list[Any] = list(encoder.blocks)
    ends = [end for end in encoder.stage_ends if end < len(blocks) - 1]
    return [blocks[end].dim_out for end in (*ends, len(blocks) - 1)]


def pixels_per_token(encoder: Hiera, layer: int = -1) -> tuple[int, int]:
    """Height and width in pixels of what a token after block `layer` describes (-1: the last)."""
    blocks: list[Any] = list(encoder.blocks)
    pools = sum(block.attn.q_stride > 1 for block in blocks[: layer % len(blocks) + 1])
    height, width = (
        stride * factor**pools
        for stride, factor in zip(encoder.patch_stride, encoder.q_stride, strict=True)
    )
    return height, width
