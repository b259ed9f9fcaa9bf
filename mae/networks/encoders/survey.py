"""Survey of timm's transformers of images: which can be encoders, and why the others cannot."""

from collections.abc import Iterator
from typing import NamedTuple

import timm
from timm.models import model_entrypoint
from torch import nn

from mae.base.errors import UserError
from mae.networks.encoders.registry import (
    BY_CLASS,
    REASONS,
    adapter_of,
    is_encoder,
    shapes_of,
)
from mae.networks.vit import check_sizes

MODULES = """
    vision_transformer deit eva hiera beit vision_transformer_relpos naflexvit
    vision_transformer_hybrid vision_transformer_sam hieradet_sam2 cait convit crossvit deepseek_vit
    gemma4_vit levit qwen3_vit vitamin xcit
""".split()
"""modules of timm with transformers whose tokens are patches, or might be"""


class Surveyed(NamedTuple):
    """One name of timm's."""

    name: str
    module: str
    """module of timm that defines it"""
    kind: str
    """class of the model"""
    reason: str
    """why it cannot be an encoder; empty: it can"""


def survey(contained: str = "") -> Iterator[Surveyed]:
    """Names in `MODULES` that contain `contained`, each built on the meta device."""
    known = {model_entrypoint(name).__module__ for name in timm.list_models()}
    for module in MODULES:
        if f"timm.models.{module}" not in known:
            continue  # of another version of timm
        for name in timm.list_models(module=module):
            if contained in name:
                model = shapes_of(name)
                yield Surveyed(name, module, type(model).__name__, refusal(model))


def refusal(model: nn.Module) -> str:
    """Why a model cannot be an encoder; empty: it can."""
    kind = type(model)
    if kind not in BY_CLASS or not is_encoder(model):
        return REASONS.get(kind.__name__, "no adapter for this class")
    adapter = adapter_of(model)
    if reasons := [*adapter.other_parts(model), *adapter.refusals(model)]:
        return f"it has {', '.join(reasons)}"
    try:
        check_sizes(model)
    except UserError as error:
        return f"unless img_size is set: {str(error).partition(': ')[2]}"
    return ""
