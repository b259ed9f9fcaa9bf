"""Frozen encoders: of a run of any objective, of an export for timm, or the raw pixels."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config, DataConfig
from mae.data.transform import choose_crop_pct
from mae.networks.patches import unit_values
from mae.objectives.base import Objective
from mae.objectives.registry import declaration
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.licence import folder_licence
from mae.pretrained_weights.opened import NOTHING, OpenedModel, is_run, licence_lines, open_model
from mae.training.checkpoint.trained import CONFIG, build_objective, is_plain

TOKENS = "tokens"
PRETRAINED = "pretrained"
FINE_TUNED = "fine-tuned"
UNTRAINED = "untrained"
RAW = "raw"
"""name of the raw pixels as features"""

ONLY = {"crop_mode": "center", "interpolation": "bicubic"}
"""keys of timm's on the reading of images, and their only supported values"""

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


class TimmEncoder(nn.Module):
    """`FrozenEncoder.encode` of a model of timm."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, data: DataConfig) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", data.mean), ("std", data.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pooled vectors by name, and patch tokens where there are any."""
        model, unit = self.model, unit_values(images)
        features = model.forward_features((unit - self.mean.to(unit)) / self.std.to(unit))
        if features.ndim != 3:  # no tokens: a convolutional network
            return {"pooled": model.forward_head(features, pre_logits=True)}
        tokens = features[:, getattr(model, "num_prefix_tokens", 0) :]
        vectors = {"mean": tokens.mean(dim=1), TOKENS: tokens}
        if getattr(model, "cls_token", None) is not None:
            vectors["cls"] = features[:, 0]
        return vectors


def open_encoder(source: Path, options: WeightOptions = NOTHING) -> LoadedEncoder:
    """Load the encoder of any `source` of `open_model`, or of an export of any model of timm's.

    Raises UserError as `open_model`.
    """
    if is_export(source):
        if options != NOTHING:
            raise UserError(f"{source}: its {CONFIG} decides; omit --num-heads, --mean and so on")
        return _open_timm(source)
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


def is_export(folder: Path) -> bool:
    """Report whether `folder` has the layout of an export for timm.

    Runs, plain exports and folders of transformers are none.
    """
    if is_run(folder) or not (folder / CONFIG).exists():
        return False
    content = read_json(folder / CONFIG)
    return not is_plain(content) and "model_type" not in content


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


def _open_timm(folder: Path) -> LoadedEncoder:
    """Load an export for timm, as "local-dir:FOLDER"."""
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder}: no model.safetensors; nothing else is loaded")
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        written: dict[str, Any] = json.loads((folder / "config.json").read_text())
        pretrained: dict[str, Any] = written["pretrained_cfg"]
        channels, *size = pretrained["input_size"]
        settings = json.dumps(written, sort_keys=True)
        name = FINE_TUNED if written.get("num_classes") else PRETRAINED
        reading: dict[str, Any] = resolve_data_config(pretrained)
        _refuse_other_views(folder, reading)
        used = {key: reading[key] for key in ("mean", "std", "crop_pct")}
        config = Config(data=DataConfig(**used, in_chans=channels))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: timm cannot load the encoder: {reason}") from None
    img_size = int(size[0]), int(size[1])

    def untrained() -> tuple[nn.Module, FrozenEncoder]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
        return fresh, _timm_encoder(fresh, config, img_size, UNTRAINED, settings)

    encoder = _timm_encoder(model, config, img_size, name, settings)
    licence = folder_licence(folder, str(folder), written)
    return LoadedEncoder(config, model, encoder, None, untrained, lines=licence_lines(licence))


def _refuse_other_views(folder: Path, reading: dict[str, Any]) -> None:
    """Raise UserError for an export whose images are not read by `center_view`."""
    for key, supported in ONLY.items():
        if reading[key] != supported:
            raise UserError(
                f"{folder}/config.json: {key} {reading[key]}: images are read with {supported} only"
            )
    if not 0 < reading["crop_pct"] <= 1:
        raise UserError(
            f"{folder}/config.json: crop_pct {reading['crop_pct']}: images are read with numbers "
            "in (0, 1] only"
        )


def _timm_encoder(
    model: Any, config: Config, img_size: tuple[int, int], name: str, settings: str
) -> FrozenEncoder:
    encode, data = TimmEncoder(model, config.data).eval(), config.data
    pixels = f"mean {list(data.mean)}, std {list(data.std)}, {data.bits} bits"
    return FrozenEncoder(
        encode=encode,
        sha256=weights_sha256(model),
        img_size=img_size,
        crop_pct=choose_crop_pct(data.crop_pct, img_size),
        pixels=pixels,
        name=name,
        settings=settings,
    )
