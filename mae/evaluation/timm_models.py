"""Models that timm itself loads, as frozen encoders: exports, and models that pool by attention.

The latter (Perception Encoder, SigLIP) compute the vector of an image from all tokens by a layer of
their own, which encoders of objectives lack.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config, DataConfig
from mae.networks.encoders.registry import adapter_named, adapter_of, is_encoder
from mae.networks.patches import unit_values
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.find import fetch_timm
from mae.pretrained_weights.licence import Licence, folder_licence, named_licence
from mae.pretrained_weights.opened import is_run
from mae.training.checkpoint.trained import CONFIG, is_plain

TOKENS = "tokens"
POOLED = "pooled"
"""name of the vector that timm itself makes of an image, before any head"""

ONLY = {"crop_mode": "center", "interpolation": "bicubic"}
"""keys of timm's on the reading of images, and their only supported values"""

BY_ATTENTION = "vectors: pooled is timm's own, by an attention layer; the others are of its tokens"
"""line for the user on the vectors of models that pool by attention"""


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
        """Pooled vectors by name, and patch tokens where there are any.

        The model's own vector is among them, and first, where it is not that of single tokens.
        """
        model, unit = self.model, unit_values(images)
        features = model.forward_features((unit - self.mean.to(unit)) / self.std.to(unit))
        vectors: dict[str, Tensor] = {}
        if features.ndim != 3 or has_attention_pooling(model):
            vectors[POOLED] = model.forward_head(features, pre_logits=True)
        if features.ndim != 3:  # no tokens: a convolutional network
            return vectors
        if is_encoder(model) and not adapter_of(model).refusals(model):
            pooled, tokens = adapter_of(model).split(model, features)
            return vectors | pooled | {TOKENS: tokens}
        tokens = features[:, getattr(model, "num_prefix_tokens", 0) :]
        vectors |= {"mean": tokens.mean(dim=1), TOKENS: tokens}
        if getattr(model, "cls_token", None) is not None:
            vectors["cls"] = features[:, 0]
        return vectors


class TimmModel(NamedTuple):
    """Model of timm with pretrained weights, and how it reads images."""

    model: Any
    config: Config
    """section `data:` for such images"""
    img_size: tuple[int, int]
    settings: str
    """settings of the model, which its weights do not show"""
    is_classifier: bool
    licence: Licence
    build: Callable[[], Any]
    """builds the model with fresh weights"""
    lines: tuple[str, ...] = ()
    """lines for the user on its vectors"""


def has_attention_pooling(model: Any) -> bool:
    """Report whether a model of timm pools its tokens by an attention layer."""
    return getattr(model, "attn_pool", None) is not None


def pools_by_attention(source: Path) -> bool:
    """Report whether `source` is `timm:NAME` of a Vision Transformer that pools by attention."""
    kind, _, name = str(source).partition(":")
    if kind != "timm" or adapter_named(name) is None:
        return False
    with torch.device("meta"):
        return has_attention_pooling(timm.create_model(name.split(".")[0], pretrained=False))


def is_export(folder: Path) -> bool:
    """Report whether `folder` has the layout of an export for timm.

    Runs, plain exports and folders of transformers are none.
    """
    if is_run(folder) or not (folder / CONFIG).exists():
        return False
    content = read_json(folder / CONFIG)
    return not is_plain(content) and "model_type" not in content


def open_export(folder: Path) -> TimmModel:
    """Load an export for timm, as "local-dir:FOLDER"."""
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder}: no model.safetensors; nothing else is loaded")
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        written: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        pretrained: dict[str, Any] = written["pretrained_cfg"]
        reading: dict[str, Any] = resolve_data_config(pretrained)
        _refuse_other_views(folder, reading)
        found = _described(model, pretrained, reading, WeightOptions())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: timm cannot load the encoder: {reason}") from None
    return found._replace(
        # Features that were cached before these models had `pooled` are encoded again.
        settings=json.dumps(written, sort_keys=True) + POOLED * has_attention_pooling(model),
        is_classifier=bool(written.get("num_classes")),
        licence=folder_licence(folder, str(folder), written),
        build=lambda: timm.create_model(f"local-dir:{folder}", pretrained=False, num_classes=0),
    )


def open_pretrained(source: Path, options: WeightOptions) -> TimmModel:
    """Load `timm:NAME`, whose image size and normalisation timm records.

    `options`: another normalisation.  Raises UserError where it cannot be fetched.
    """
    name = str(source).partition(":")[2]
    if options.num_heads is not None:
        raise UserError(f"--num-heads: {source} records its number of attention heads")
    try:
        model = fetch_timm(str(source), name, num_classes=0)
    except UserError as error:
        raise UserError(str(error).removeprefix("init.from: ")) from None
    pretrained: dict[str, Any] = model.pretrained_cfg
    found = _described(model, pretrained, resolve_data_config(pretrained), options)
    return found._replace(licence=named_licence(str(source), pretrained.get("license")))


def _described(
    model: Any, pretrained: dict[str, Any], reading: dict[str, Any], options: WeightOptions
) -> TimmModel:
    """A model with the reading of images that its `pretrained_cfg` records."""
    channels, *size = pretrained["input_size"]
    used = {key: reading[key] for key in ("mean", "std", "crop_pct")}
    used |= {key: given for key in ("mean", "std") if (given := getattr(options, key))}
    architecture = str(pretrained.get("architecture", ""))
    lines = [BY_ATTENTION] * has_attention_pooling(model)
    lines += [
        f"timm reads images with {key} {reading[key]}, here they are read with {supported}"
        for key, supported in ONLY.items()
        if reading[key] != supported
    ]
    return TimmModel(
        model=model,
        config=Config(data=DataConfig(**used, in_chans=channels)),
        img_size=(int(size[0]), int(size[1])),
        settings=architecture,
        is_classifier=False,
        licence=Licence(),
        build=lambda: timm.create_model(architecture, pretrained=False, num_classes=0),
        lines=tuple(lines),
    )


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
