"""Geometry and normalisation of a source of weights, from a model or its configuration files.

Number of heads, patch grid, epsilon and activation do not follow from the tensors' shapes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import DataConfig
from mae.networks.encoders.registry import TimmEncoder, adapter_of, supported, usual_arguments
from mae.networks.vit import encoder_shape
from mae.pretrained_weights.hiera_config import (
    HIERA,
    hiera_architecture,
    refuse_beyond_timm,
)
from mae.pretrained_weights.weight_files import Architecture, Geometry, Normalisation

Grid = tuple[int, int]

DINOV3 = "dinov3_vit"
HUGGINGFACE = ("vit", "vit_mae", DINOV3, HIERA)
"""kinds of models of transformers that are known"""
DEFAULT_EPS = {"vit": 1e-12, "vit_mae": 1e-12, DINOV3: 1e-5, HIERA: 1e-6}
"""default LayerNorm epsilons of transformers' models"""
SAME = 1e-3
"""tolerance for equal mean and std: some sources round them to three decimals"""


def geometry_of(vit: TimmEncoder) -> Geometry:
    """Geometry of a model, which may be on the meta device."""
    return Geometry(
        num_heads_of(vit),
        grid_of(vit),
        eps=eps_of(vit),
        activation=activation_of(vit),
        beyond_tensors=beyond_tensors(vit),
        patch_size=encoder_shape(vit).patch_size,
        position_grid=adapter_of(vit).position_grid(vit),
    )


def grid_of(vit: TimmEncoder) -> Grid:
    """Rows and columns of patches."""
    return encoder_shape(vit).grid_size


def beyond_tensors(vit: TimmEncoder) -> Mapping[str, Any]:
    """Options that change the outputs and that no tensor holds, such as rotary positions."""
    return adapter_of(vit).beyond_tensors(vit)


def num_heads_of(vit: TimmEncoder) -> int | None:
    """Attention heads of the last block; None: unknown."""
    return encoder_shape(vit).num_heads


def eps_of(vit: TimmEncoder) -> float | None:
    """Epsilon of the first block's norm; None where it has none."""
    return getattr(getattr(vit.blocks[0], "norm1", None), "eps", None)


def activation_of(vit: TimmEncoder) -> str | None:
    """Activation of the first block's MLP: gelu, gelutanh, quickgelu…; None where it has none."""
    act = getattr(getattr(vit.blocks[0], "mlp", None), "act", None)
    if act is None:
        return None
    suffix = "tanh" if getattr(act, "approximate", "none") == "tanh" else ""
    return type(act).__name__.lower() + suffix


def geometry_from_config(config: Mapping[str, Any], where: str) -> Geometry:
    """Geometry from a config.json of timm's hub format, or of one of `HUGGINGFACE`.

    Raises UserError, naming the source `where`, for another kind of model.
    """
    try:
        if "architecture" in config:
            return _of_timm(config)
        if config.get("model_type") == HIERA:
            return _of_hiera(config, where)
        if config.get("model_type") in HUGGINGFACE:
            return _of_transformers(config, where)
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"init.from: {where}: config.json describes no valid model: {error}"
        ) from None
    kind = config.get("model_type", "no kind of model that is known here")
    raise UserError(
        f"init.from: {where}: config.json names {kind}; known are encoders of timm (mae recipes "
        f"encoders), and {', '.join(HUGGINGFACE)} of transformers"
    )


def _of_timm(config: Mapping[str, Any]) -> Geometry:
    arguments = dict(config.get("model_args") or {})
    arguments.setdefault("num_classes", config.get("num_classes", 0))
    name = config["architecture"]
    try:
        return geometry_of(_without_weights(name, arguments))
    except UserError as error:
        raise ValueError(str(error).removeprefix("model.encoder: ")) from None


def _without_weights(name: str, arguments: Mapping[str, Any]) -> TimmEncoder:
    """Encoder of timm on the meta device."""
    with torch.device("meta"):
        arguments = {**usual_arguments(name, arguments), **arguments}
        return supported(timm.create_model(name, pretrained=False, **arguments), name)


def _of_transformers(config: Mapping[str, Any], where: str) -> Geometry:
    activation = config.get("hidden_act", "gelu")
    known = ("gelu", "silu") if config["model_type"] == DINOV3 else ("gelu",)
    if activation not in known:
        names = " and ".join(known)
        raise UserError(
            f"init.from: {where}: its activation is {activation}; only {names} is known"
        )
    height, width = _pair(config["image_size"])
    p, q = _pair(config["patch_size"])
    return Geometry(
        int(config["num_attention_heads"]),
        (height // p, width // q),
        config.get("decoder_num_attention_heads"),
        float(config.get("layer_norm_eps", DEFAULT_EPS[config["model_type"]])),
        activation,
        _rotation_of_transformers(config),
    )


def _of_hiera(config: Mapping[str, Any], where: str) -> Geometry:
    built = hiera_architecture(config)
    encoder = _without_weights(built.name, {**built.arguments, "num_classes": 0})
    refuse_beyond_timm(config, encoder, where)
    return geometry_of(encoder)._replace(
        eps=float(config.get("layer_norm_eps", DEFAULT_EPS[HIERA])),
        decoder_num_heads=config.get("decoder_num_heads"),
    )


def _rotation_of_transformers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config["model_type"] != DINOV3:
        return {}
    built = _dinov3(config)
    return beyond_tensors(_without_weights(built.name, built.arguments))


def _pair(size: Any) -> Grid:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


def read_normalisation(config: Any, mean: str = "mean", std: str = "std") -> Normalisation | None:
    """Normalisation from timm's pretrained_cfg; None where it is missing or malformed."""
    if not isinstance(config, Mapping):
        return None
    try:
        return Normalisation(
            tuple(float(number) for number in config[mean]),
            tuple(float(number) for number in config[std]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def preprocessor_normalisation(path: Path) -> Normalisation | None:
    """Normalisation from transformers' preprocessor_config.json; None without a valid one."""
    return read_normalisation(read_json(path), "image_mean", "image_std")


def read_crop(config: Any) -> float | None:
    """Share of the image that timm's pretrained_cfg crops; None where it is not recorded."""
    share = config.get("crop_pct") if isinstance(config, Mapping) else None
    return float(share) if isinstance(share, int | float) and 0 < share <= 1 else None


def preprocessor_crop(path: Path) -> float | None:
    """Share of the image that transformers' preprocessor crops; None: unknown, or another rule."""
    config = read_json(path)
    try:
        if config.get("do_center_crop"):
            crop = config["crop_size"]
            crop = crop["height"] if isinstance(crop, dict) else crop
            edge = config["size"]["shortest_edge"]
            share = crop / edge
            if crop // share < edge:  # rounded up: 96 / (96 / 118) is below 118
                share = math.nextafter(share, 0)
            return read_crop({"crop_pct": share})
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    return None


def architecture_from_config(config: Mapping[str, Any]) -> Architecture | None:
    """Architecture in a config.json of timm's hub format, of a DINOv3ViTModel, or of a Hiera.

    None in other formats.
    """
    if config.get("model_type") == HIERA:
        return hiera_architecture(config)
    if config.get("model_type") == DINOV3:
        return _dinov3(config)
    if "architecture" not in config:
        return None
    arguments = dict(config.get("model_args") or {})
    pool = arguments.get("global_pool") or config.get("global_pool") or "token"
    return Architecture(str(config["architecture"]).split(".")[0], arguments, str(pool))


def _dinov3(config: Mapping[str, Any]) -> Architecture:
    """Architecture in timm of transformers' DINOv3ViTModel, whose defaults are those of its S."""
    kind = "_plus" if config.get("use_gated_mlp") else ""
    bias = "_qkvb" if config.get("query_bias", True) else ""
    width, hidden = int(config.get("hidden_size", 384)), int(config.get("intermediate_size", 1536))
    arguments = {
        "embed_dim": width,
        "depth": int(config.get("num_hidden_layers", 12)),
        "num_heads": int(config.get("num_attention_heads", 6)),
        "mlp_ratio": mlp_ratio(hidden, width),
        "num_reg_tokens": int(config.get("num_register_tokens", 0)),
        "rope_temperature": float(config.get("rope_theta", 100.0)),
    }
    return Architecture(f"vit_small{kind}_patch16_dinov3{bias}", arguments)


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio of which timm, which rounds down, makes `hidden` numbers of `width`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def settings_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the training in a config.json of transformers' ViTMAE."""
    return {key: config[key] for key in ("norm_pix_loss", "mask_ratio") if key in config}


def class_names_from_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in a config.json of timm's hub format or transformers'; empty: not named."""
    described = config.get("pretrained_cfg")
    names = described.get("label_names") if isinstance(described, Mapping) else None
    by_number = config.get("id2label")
    if isinstance(names, list):
        return tuple(map(str, names))
    if isinstance(by_number, Mapping):
        found = [by_number.get(str(number)) for number in range(len(by_number))]
        is_named = any(name != f"LABEL_{number}" for number, name in enumerate(found))
        return tuple(map(str, found)) if is_named else ()
    return ()


def normalisation_note(trained: Normalisation | None, data: DataConfig) -> list[str]:
    """Note for a run whose mean and std differ from those of its initial weights; else none."""
    if trained is None or (_same(trained.mean, data.mean) and _same(trained.std, data.std)):
        return []
    return [
        f"trained with data.mean {list(trained.mean)}, data.std {list(trained.std)}; "
        f"this run has {list(data.mean)}, {list(data.std)}"
    ]


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= SAME for a, b in zip(one, other, strict=True)
    )
