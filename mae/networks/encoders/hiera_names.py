"""Names of released weights → names in timm's Hiera.

Known are the release of Hiera and transformers' models, which count blocks by stages.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from timm.models.hiera import Hiera
from torch import Tensor

from mae.networks.encoders.contract import NamedWeights, add_named

LAYER = re.compile(r"^stages\.(\d+)\.layers\.(\d+)\.(.+)$")
NORMS = {"layernorm_before": "norm1", "layernorm_after": "norm2"}
"""norms of a block in transformers → in timm; the other names in a block are the same"""
LAST_NORMS = ("encoder_norm", "norm", "pooler.layernorm")
"""names of the norm of the last stage, `head.norm` in timm"""
FUSION = ("multi_scale_fusion_heads.", "multiscale_fusion.")


def to_timm_names(tensors: Mapping[str, Tensor], depths: Sequence[int]) -> NamedWeights:
    """Rename released weights for a Hiera with `depths` blocks in its stages.

    A name that is known to neither stays as it is.  Raises UserError for two tensors of one name.
    """
    found: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for key, tensor in tensors.items():
        if key.startswith(FUSION):
            skipped[key] = "the fusion of the stages, a part of the decoder"
            continue
        add_named(found, _timm_name(key, depths), tensor, key)
    return NamedWeights(found, skipped)


def _timm_name(key: str, depths: Sequence[int]) -> str:
    if match := LAYER.match(key):
        stage, layer = int(match[1]), int(match[2])
        if stage >= len(depths) or layer >= depths[stage]:
            return key
        part, _, rest = match[3].partition(".")
        return f"blocks.{sum(depths[:stage]) + layer}.{NORMS.get(part, part)}.{rest}"
    module, _, kind = key.rpartition(".")
    if module in LAST_NORMS:
        return f"head.norm.{kind}"
    return "pos_embed" if key == "pos_embed_abs" else key


def stage_depths(encoder: Hiera) -> list[int]:
    """Number of blocks of each stage."""
    ends = [-1, *encoder.stage_ends]
    return [end - begin for begin, end in pairwise(ends)]
