"""Supported classes of encoders: adapter of a module, and reasons why other classes are refused."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeGuard

from timm.models import is_model, model_entrypoint
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae.base.errors import UserError
from mae.networks.encoders.contract import EncoderAdapter
from mae.networks.encoders.hiera import HieraAdapter
from mae.networks.encoders.plain import PlainAdapter
from mae.networks.encoders.rope import RopeAdapter

TimmEncoder: TypeAlias = VisionTransformer | Eva | Hiera
"""module of a supported class of timm's"""

ADAPTERS: Sequence[EncoderAdapter[Any]] = (PlainAdapter(), RopeAdapter(), HieraAdapter())
"""adapters of all supported classes"""

BY_CLASS: dict[type, EncoderAdapter[Any]] = {adapter.kind: adapter for adapter in ADAPTERS}

REASONS = {
    "VisionTransformerDistilled": "its second class token, for distillation, has a head of its own",
    "VisionTransformerRelPos": "its attention adds a bias for each pair of positions of the grid",
    "VisionTransformerSAM": "its attention works in windows of the whole grid",
    "Beit": "its attention adds a bias for each pair of positions of the grid",
    "NaFlexVit": "it takes batches of images of different sizes, with masks of its own",
    "HieraDet": "its attention works in windows of the whole grid",
    "Cait": "its class token enters after the blocks that see the patches",
    "ConVit": "its attention has positions of the whole grid",
    "CrossVit": "it has two branches with patches of different sizes",
    "Xcit": "it mixes neighbouring patches by convolutions",
    "Levit": "it begins with convolutions",
    "LevitDistilled": "it begins with convolutions",
    **dict.fromkeys(
        ("DeepseekVitEncoder", "Gemma4VitEncoder", "Qwen3VitEncoder"),
        "it merges neighbouring patches at its end",
    ),
    **dict.fromkeys(
        ("DeepseekVitClassifier", "Gemma4VitClassifier", "Qwen3VitClassifier"),
        "its encoder is a module inside it",
    ),
}
"""class of timm's → why its patches cannot be left out"""


def adapter_of(encoder: nn.Module) -> EncoderAdapter[Any]:
    """Adapter of a supported encoder; FSDP2 gives modules a subclass of their own class."""
    for kind in type(encoder).__mro__:
        if kind in BY_CLASS:
            return BY_CLASS[kind]
    raise TypeError(f"no encoder: {type(encoder).__name__}")


def adapter_named(name: str) -> EncoderAdapter[Any] | None:
    """Adapter of the models that timm calls `name`; None: of no supported class."""
    name = name.split(".")[0]
    module = model_entrypoint(name).__module__ if is_model(name) else ""
    return next((one for one in ADAPTERS if module in one.modules), None)


def is_encoder(module: object) -> TypeGuard[TimmEncoder]:
    """True for modules of supported classes."""
    return any(kind in BY_CLASS for kind in type(module).__mro__)


def supported(module: nn.Module, name: str) -> TimmEncoder:
    """`module`; UserError unless it, which timm calls `name`, is of a supported class itself."""
    if type(module) in BY_CLASS and is_encoder(module):
        return module
    kind = type(module).__name__
    reason = f": {REASONS[kind]}" if kind in REASONS else ""
    known = " or ".join(f"timm's {one.kind.__name__}" for one in ADAPTERS)
    raise UserError(
        f"model.encoder: {name} is a {kind}, not {known}{reason} (mae recipes encoders lists those "
        "that can skip hidden patches)"
    )
