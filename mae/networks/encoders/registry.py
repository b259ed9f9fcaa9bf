"""Supported classes of encoders: adapter of a module, and reasons why other classes are refused."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeGuard

import timm
import torch
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

CREATION = (TypeError, ValueError, LookupError, AssertionError, RuntimeError)
"""errors of timm for arguments that a model does not take"""

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


def usual_arguments(name: str, given: Iterable[str] = ()) -> dict[str, Any]:
    """Arguments of `timm.create_model` that its class needs here, but for those `given`."""
    adapter = adapter_named(name)
    usual = adapter.arguments if adapter else {}
    return {key: value for key, value in usual.items() if key not in given}


def shapes_of(name: str) -> nn.Module:
    """The model on the meta device, with one block where timm allows that: the rest are copies.

    Raises UserError where timm cannot build it with its default arguments.
    """
    tokens: dict[str, Any] = {"num_classes": 0, "global_pool": ""}
    choices: list[dict[str, Any]] = [{**tokens, "depth": 1}, tokens, {}]
    for arguments in choices:
        try:
            with torch.device("meta"):
                return timm.create_model(name, **arguments, **usual_arguments(name))
        except CREATION:
            continue
    raise UserError(f"timm cannot build {name} at its default arguments")


def refuse_by_name(name: str) -> None:
    """Raise UserError where no model that timm calls `name` can be an encoder, whatever its sizes.

    For errors of timm about arguments that would not help.
    """
    try:
        model = shapes_of(name)
    except UserError:
        return
    supported(model, name)


def supported(module: nn.Module, name: str) -> TimmEncoder:
    """`module`, which timm calls `name`, if it is of a supported class itself.

    Raises UserError with the reason otherwise.
    """
    if type(module) in BY_CLASS and is_encoder(module):
        if found := adapter_of(module).other_parts(module):
            raise UserError(f"model.encoder: {name} is not supported: it has {', '.join(found)}")
        return module
    kind = type(module).__name__
    reason = f": {REASONS[kind]}" if kind in REASONS else ""
    known = " or ".join(f"timm's {one.kind.__name__}" for one in ADAPTERS)
    raise UserError(
        f"model.encoder: {name} is a {kind}, not {known}{reason} (mae recipes encoders lists those "
        "that can skip hidden patches)"
    )
