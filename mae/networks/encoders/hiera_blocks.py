"""Blocks of a Hiera as timm and transformers compute them: width, heads, pooling, windows.

Neither has a place for all that the other computes; what differs follows from comparing the two.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from timm.models.hiera import Hiera

DEFAULTS: Mapping[str, Any] = {
    "embed_dim": 96,
    "embed_dim_multiplier": 2.0,
    "image_size": (224, 224),
    "num_channels": 3,
    "patch_size": (7, 7),
    "patch_stride": (4, 4),
    "patch_padding": (3, 3),
    "mlp_ratio": 4.0,
    "depths": (2, 3, 16, 3),
    "num_heads": (1, 2, 4, 8),
    "num_query_pool": 3,
    "query_stride": (2, 2),
    "masked_unit_size": (8, 8),
    "masked_unit_attention": (True, True, False, False),
    "layer_norm_eps": 1e-6,
}
"""values of transformers' HieraConfig that its config.json leaves out"""


class Block(NamedTuple):
    """Computation of a block, apart from its weights."""

    width: int
    heads: int
    hidden: int
    """width inside the MLP"""
    pools: bool
    """True where it lowers the resolution"""
    window: int
    """tokens after pooling that attend to each other; 0: all of the image"""


TIMM = ("dim_mul", "head_mul", "mlp_ratio", "q_pool", "mask_unit_attn")
"""options of timm's that decide the fields of `Block`"""
TRANSFORMERS = (
    "embed_dim_multiplier",
    "num_heads",
    "mlp_ratio",
    "num_query_pool",
    "masked_unit_attention",
)
"""options of transformers' that decide the fields of `Block`"""


def differing(one: list[Block], other: list[Block], options: tuple[str, ...]) -> list[str]:
    """Options that make the blocks differ, of `TIMM` or `TRANSFORMERS`."""
    return [
        option
        for field, option in zip(Block._fields, options, strict=True)
        if [getattr(block, field) for block in one] != [getattr(block, field) for block in other]
    ]


def timm_blocks(encoder: Hiera) -> list[Block]:
    """Blocks as timm computes them."""
    blocks: list[Any] = list(encoder.blocks)
    return [
        Block(
            block.dim_out,
            block.attn.heads,
            block.mlp.fc1.out_features,
            block.attn.q_stride > 1,
            block.attn.window_size if block.attn.use_mask_unit_attn else 0,
        )
        for block in blocks
    ]


def transformers_blocks(config: Mapping[str, Any]) -> list[Block]:
    """Blocks as transformers computes them for a config.json.

    Its windows shrink from stage to stage, also without pooling; the first block of a stage has
    one where its own stage or the one before has.
    """
    known = {**DEFAULTS, **config}
    pool, unit = math.prod(known["query_stride"]), math.prod(known["masked_unit_size"])
    windowed = known["masked_unit_attention"]
    found = []
    stages = zip(known["depths"], known["num_heads"], windowed, strict=True)
    for stage, (depth, heads, has_window) in enumerate(stages):
        width = int(known["embed_dim"] * known["embed_dim_multiplier"] ** stage)
        for layer in range(depth):
            is_first = layer == 0
            is_windowed = has_window or (is_first and windowed[max(stage - 1, 0)])
            found.append(
                Block(
                    width,
                    heads,
                    int(width * known["mlp_ratio"]),
                    is_first and 0 < stage <= known["num_query_pool"] and pool > 1,
                    int(unit * pool**-stage) if is_windowed else 0,
                )
            )
    return found
