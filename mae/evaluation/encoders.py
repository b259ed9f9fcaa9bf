"""Frozen encoders, whatever they come from: a run, an export for timm, or no model at all."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae.config import Config, DataConfig, ModelConfig
from mae.errors import UserError
from mae.objective import Objective
from mae.training.run import build_objective, load_pretrained

TOKENS = "tokens"
PIXELS = "pixels"
PRETRAINED = "pretrained"
FINE_TUNED = "fine-tuned"
UNTRAINED = "untrained"
RAW = "raw"
"""the pixels"""

PIXEL_SIDE = 16


class FrozenEncoder(NamedTuple):
    """Pictures to vectors, nothing of which is trained."""

    encode: Callable[[Tensor], dict[str, Tensor]]
    """integers [b c h w] → vectors [b d] by name, patch `tokens` [b p d] where it has them"""
    sha256: str
    """of the weights: names, shapes and values"""
    img_size: tuple[int, int]
    crop_pct: float
    pixels: str
    """how pixels are normalised, for the record"""
    name: str = PRETRAINED
    """PRETRAINED, FINE_TUNED, UNTRAINED or RAW: what reports call it"""


class Opened(NamedTuple):
    """What a folder on the command line holds."""

    config: Config
    """how its images are to be read"""
    module: nn.Module
    encoder: FrozenEncoder
    step: int | None
    """steps of pretraining, where that is known"""
    untrained: Callable[[], tuple[nn.Module, FrozenEncoder]]
    """the same architecture, freshly initialised"""


def open_encoder(folder: Path) -> Opened:
    """The encoder of a run, or of an export for timm.

    Raises UserError where `folder` is neither, or has no checkpoint yet.
    """
    if is_export(folder):
        return _open_timm(folder)
    config, objective, position = load_pretrained(folder)

    def untrained() -> tuple[nn.Module, FrozenEncoder]:
        fresh = build_objective(config).eval()
        return fresh, objective_encoder(config, fresh)._replace(name=UNTRAINED)

    encoder = objective_encoder(config, objective)
    return Opened(config, objective, encoder, position.step, untrained)


def is_export(folder: Path) -> bool:
    """It is laid out as an export for timm, not as a run."""
    return not (folder / "config.yaml").exists() and (folder / "config.json").exists()


def objective_encoder(config: Config, objective: Objective) -> FrozenEncoder:
    """The encoder of an objective in evaluation mode."""

    def encode(images: Tensor) -> dict[str, Tensor]:
        features = objective.encode(images)
        return {**features.pooled, TOKENS: features.tokens}

    data = config.data
    # What encodes: a classifier's averaged weights, where it keeps them.
    own = getattr(objective, "encoder", objective)
    average = getattr(objective, "average", None)
    encoder = own if average is None else average
    pixels = f"mean {list(data.mean)}, std {list(data.std)}, {data.bits} bits"
    sha256, name = weights_sha256(encoder), _name(config.objective == "classifier")
    return FrozenEncoder(encode, sha256, objective.img_size, data.crop_pct, pixels, name)


def _name(is_classifier: bool) -> str:
    return FINE_TUNED if is_classifier else PRETRAINED


def pixel_encoder(config: Config, img_size: tuple[int, int], crop_pct: float) -> FrozenEncoder:
    """The pixels themselves, as features to compare with."""
    rule = f"{config.data.bits} bits in [0, 1], sides of {PIXEL_SIDE} at most"
    nothing = hashlib.sha256().hexdigest()
    return FrozenEncoder(pixel_features, nothing, img_size, crop_pct, rule, RAW)


def pixel_features(images: Tensor) -> dict[str, Tensor]:
    """The pixels themselves, larger images averaged down to a side of 16 at most."""
    pixels = images.float() / torch.iinfo(images.dtype).max
    side = [min(length, PIXEL_SIDE) for length in images.shape[-2:]]
    if list(images.shape[-2:]) != side:
        pixels = F.interpolate(pixels, size=side, mode="bilinear", antialias=True)
    return {PIXELS: pixels.flatten(1)}


def weights_sha256(module: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _open_timm(folder: Path) -> Opened:
    """An encoder that timm loads with "local-dir:FOLDER"."""
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder}: no model.safetensors; nothing else is loaded")
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        told: dict[str, Any] = json.loads((folder / "config.json").read_text())
        given: dict[str, Any] = told["pretrained_cfg"]
        channels, *size = given["input_size"]
        name = _name(bool(told.get("num_classes")))
        reading: dict[str, Any] = {key: given[key] for key in ("mean", "std", "crop_pct")}
        config = Config(data=DataConfig(**reading), model=ModelConfig(in_chans=channels))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: no encoder that timm loads: {reason}") from None
    img_size = int(size[0]), int(size[1])

    def untrained() -> tuple[nn.Module, FrozenEncoder]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0)
        return fresh, _timm_encoder(fresh, config, img_size, UNTRAINED)

    return Opened(config, model, _timm_encoder(model, config, img_size, name), None, untrained)


def _timm_encoder(
    model: Any, config: Config, img_size: tuple[int, int], name: str
) -> FrozenEncoder:
    model.eval()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (config.data.mean, config.data.std))

    def encode(images: Tensor) -> dict[str, Tensor]:
        unit = images.float() / torch.iinfo(images.dtype).max
        features = model.forward_features((unit - mean.to(unit)) / std.to(unit))
        if features.ndim != 3:  # no tokens: a convolutional network
            return {"pooled": model.forward_head(features, pre_logits=True)}
        tokens = features[:, model.num_prefix_tokens :]
        vectors = {"mean": tokens.mean(dim=1), TOKENS: tokens}
        if getattr(model, "cls_token", None) is not None:
            vectors["cls"] = features[:, 0]
        return vectors

    data = config.data
    pixels = f"mean {list(data.mean)}, std {list(data.std)}, {data.bits} bits"
    return FrozenEncoder(encode, weights_sha256(model), img_size, data.crop_pct, pixels, name)
