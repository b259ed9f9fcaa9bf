"""Architecture in timm of a config.json of transformers' Hiera."""

from collections.abc import Mapping
from typing import Any

from timm.models.hiera import Hiera

from mae.base.errors import UserError
from mae.networks.encoders.hiera_blocks import (
    DEFAULTS,
    TRANSFORMERS,
    differing,
    timm_blocks,
    transformers_blocks,
)
from mae.networks.encoders.registry import TimmEncoder
from mae.pretrained_weights.weight_files import Architecture

HIERA = "hiera"
"""`model_type` in config.json"""
NAME = "hiera_tiny_224"
"""name in timm; all sizes are arguments"""
SIZES = {
    "image_size": "img_size",
    "patch_size": "patch_kernel",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "query_stride": "q_stride",
    "masked_unit_size": "mask_unit_size",
}
"""pairs of numbers in config.json → argument of timm's"""


def hiera_architecture(config: Mapping[str, Any]) -> Architecture:
    """Architecture in timm.  ValueError, TypeError or KeyError where `config` is malformed."""
    known = {**DEFAULTS, **config}
    depths, heads = (list(map(int, known[key])) for key in ("depths", "num_heads"))
    windows = list(map(bool, known["masked_unit_attention"]))
    if len(depths) < 2 or not len(depths) == len(heads) == len(windows):
        raise ValueError(
            f"depths {depths}, num_heads {heads}, masked_unit_attention {windows}: not of two "
            "stages or more"
        )
    if min(*depths, *heads) < 1:
        raise ValueError(f"depths {depths}, num_heads {heads}: not positive")
    arguments = {
        "in_chans": int(known["num_channels"]),
        "embed_dim": int(known["embed_dim"]),
        "dim_mul": float(known["embed_dim_multiplier"]),
        "mlp_ratio": float(known["mlp_ratio"]),
        "stages": depths,
        "num_heads": heads[0],
        "head_mul": heads[1] / heads[0],
        "q_pool": int(known["num_query_pool"]),
        "mask_unit_attn": windows,
    }
    for key, argument in SIZES.items():
        height, width = map(int, known[key])
        if min(height, width) < (key != "patch_padding"):
            raise ValueError(f"{key} {height} x {width}")
        arguments[argument] = [height, width]
    return Architecture(NAME, arguments, "avg")


def refuse_beyond_timm(config: Mapping[str, Any], built: TimmEncoder, where: str) -> None:
    """Raise UserError, naming the options, where timm's Hiera `built` for it computes another."""
    assert isinstance(built, Hiera)
    options = differing(timm_blocks(built), transformers_blocks(config), TRANSFORMERS)
    if config.get("hidden_act", "gelu") != "gelu":
        options.append("hidden_act")
    if options:
        known = {**DEFAULTS, **config}
        listed = ", ".join(f"{option} {known[option]}" for option in options)
        raise UserError(f"init.from: {where}: timm's Hiera has no place for {listed}")
