"""Frozen encoders: of a run of any objective, of an export for timm, or the raw pixels."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.data.transform import choose_crop_pct
from mae.evaluation.timm_models import (
    TOKENS,
    TimmEncoder,
    TimmModel,
    is_export,
    open_export,
    open_pretrained,
    pools_by_attention,
)
from mae.objectives.base import Objective
from mae.objectives.registry import declaration
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.opened import NOTHING, OpenedModel, licence_lines, open_model
from mae.training.checkpoint.trained import CONFIG, build_objective

PRETRAINED = "pretrained"
FINE_TUNED = "fine-tuned"
UNTRAINED = "untrained"
RAW = "raw"
"""name of the raw pixels as features"""

Encode = Callable[[Tensor], dict[str, Tensor]]
"""integers [b c h w] → vectors [b d] by name, the preferred one first; patch `tokens` [b p d] where
there are any"""


class FrozenEncoder(NamedTuple):
    """Encoder with fixed weights: images → feature vectors."""

    encode: Encode
    sha256: str
    """checksum of the weights: names, shapes and values"""
    img_size: tuple[int, int]
    crop_pct: float
    pixels: str
    """normalisation of pixels, as recorded in reports"""
    name: str = PRETRAINED
    """PRETRAINED, FINE_TUNED, UNTRAINED or RAW: its name in reports"""
    settings: str = ""
    """settings of the model: the weights do not show the number of attention heads, for one"""


class LoadedEncoder(NamedTuple):
    """Encoder loaded from a run folder or an export."""

    config: Config
    """settings of the run, or those of an export: how images are read"""
    module: nn.Module
    encoder: FrozenEncoder
    step: int | None
    """steps of pretraining; None: unknown"""
    untrained: Callable[[], tuple[nn.Module, FrozenEncoder]]
    """the same architecture, freshly initialised"""
    objective: str | None = None
    """objective of the run; None: an export, which does not name it"""
    lines: Sequence[str] = ()
    """lines for the user on weights of others: counts, assumptions, licence"""


class ObjectiveEncoder(nn.Module):
    """`FrozenEncoder.encode` of an objective."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The pooled vectors by name, and patch tokens where there are any."""
        features = self.objective.encode(images)
        tokens = {} if features.tokens is None else {TOKENS: features.tokens}
        return {**features.pooled, **tokens}


def open_encoder(source: Path, options: WeightOptions = NOTHING) -> LoadedEncoder:
    """Load the encoder of any `source` of `open_model`, or of an export of any model of timm's.

    Models `timm:NAME` that pool by attention are loaded by timm, with that pooling.  Raises
    UserError as `open_model`.
    """
    if is_export(source):
        if options != NOTHING:
            raise UserError(f"{source}: its {CONFIG} decides; omit --num-heads, --mean and so on")
        return _of_timm(open_export(source))
    if pools_by_attention(source):
        return _of_timm(open_pretrained(source, options))
    opened = open_model(source, options)
    config, objective = opened.config, opened.objective

    def untrained() -> tuple[nn.Module, FrozenEncoder]:
        fresh = build_objective(config).eval()
        return fresh, frozen_encoder(opened, fresh)._replace(name=UNTRAINED)

    encoder = frozen_encoder(opened, objective)
    return LoadedEncoder(
        config=config,
        module=objective,
        encoder=encoder,
        step=opened.step,
        untrained=untrained,
        objective=config.objective,
        lines=opened.lines,
    )


def frozen_encoder(opened: OpenedModel, objective: Objective) -> FrozenEncoder:
    """Frozen encoder of an opened model; `objective` is its own, or a fresh one.

    The checksum of weights of others covers the model's settings: another number of attention
    heads, which their tensors do not show, gives other features.
    """
    encoder = objective_encoder(opened.config, objective)
    if opened.state is not None:
        return encoder
    if opened.is_probe:
        encoder = encoder._replace(name=PRETRAINED)
    text = f"{encoder.sha256} {opened.config.model.model_dump_json()}"
    return encoder._replace(sha256=hashlib.sha256(text.encode()).hexdigest())


def open_again(
    source: Path, is_untrained: bool, sha256: str, options: WeightOptions = NOTHING
) -> FrozenEncoder:
    """Load the encoder that a probe run was started with.

    Raises UserError where the weights of `source` have changed since.
    """
    opened = open_encoder(source, options)
    encoder = opened.untrained()[1] if is_untrained else opened.encoder
    if encoder.sha256 != sha256:
        raise UserError(
            f"{source}: not the encoder that the run was started with (sha256 "
            f"{encoder.sha256[:16]}, then {sha256[:16]})"
        )
    return encoder


def objective_encoder(config: Config, objective: Objective) -> FrozenEncoder:
    """Frozen encoder of an objective, which is in evaluation mode."""
    data = config.data
    pixels = f"mean {list(data.mean)}, std {list(data.std)}, {data.bits} bits"
    is_supervised = declaration(config.objective).supervises_encoder
    sha256 = weights_sha256(objective.encoder_module())
    name = FINE_TUNED if is_supervised else PRETRAINED
    size, encode = objective.img_size, ObjectiveEncoder(objective)
    return FrozenEncoder(
        encode=encode,
        sha256=sha256,
        img_size=size,
        crop_pct=choose_crop_pct(data.crop_pct, size),
        pixels=pixels,
        name=name,
        settings=config.model.model_dump_json(),
    )


def weights_sha256(module: nn.Module) -> str:
    """sha256 of the names, types, shapes and bytes of all parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _of_timm(found: TimmModel) -> LoadedEncoder:
    """Loaded encoder of a model of timm."""

    def frozen(model: Any, name: str) -> FrozenEncoder:
        data = found.config.data
        return FrozenEncoder(
            encode=TimmEncoder(model, data).eval(),
            sha256=weights_sha256(model),
            img_size=found.img_size,
            crop_pct=choose_crop_pct(data.crop_pct, found.img_size),
            pixels=f"mean {list(data.mean)}, std {list(data.std)}, {data.bits} bits",
            name=name,
            settings=found.settings,
        )

    def untrained() -> tuple[nn.Module, FrozenEncoder]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = found.build()
        return fresh, frozen(fresh, UNTRAINED)

    name = FINE_TUNED if found.is_classifier else PRETRAINED
    encoder, lines = frozen(found.model, name), [*found.lines, *licence_lines(found.licence)]
    return LoadedEncoder(found.config, found.model, encoder, None, untrained, lines=lines)
