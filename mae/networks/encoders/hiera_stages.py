"""Stages of timm's Hiera: widths, resolutions, and their fusion for the decoder."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from timm.models.hiera import Hiera
from torch import Tensor, nn

from mae.networks.initial_weights import initialize_linears


class Fusion(nn.Module):
    """Sum of the stages of a Hiera, each mapped to one token a mask unit.

    The paper's convolutions over the tokens of a unit, written as linear layers: the tokens of a
    unit are [s, unit] in timm's order, whatever the stage.
    """

    def __init__(self, sides: Sequence[int], widths: Sequence[int]) -> None:
        """`sides`: tokens of a unit in each stage but the last; `widths`: of all stages."""
        super().__init__()
        self.sides = tuple(sides)
        self.stages = nn.ModuleList(
            nn.Linear(count * width, widths[-1])
            for count, width in zip(sides, widths, strict=False)
        )
        initialize_linears(self)

    def forward(self, features: Sequence[Float[Tensor, "b _ _"]]) -> Float[Tensor, "b k d"]:
        """Tokens after each stage → one token a mask unit."""
        fused = features[-1]
        for count, stage, tokens in zip(self.sides, self.stages, features, strict=False):
            fused = fused + stage(tokens.unflatten(1, (count, -1)).transpose(1, 2).flatten(2))
        return fused


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
