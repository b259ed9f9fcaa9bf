"""Settings of a model that holds given weights: sections `model:` and `data:`, inferred.

Sizes follow from the tensors' shapes; what does not (attention heads, normalisation) comes from
the source's configuration, from an option, or is assumed and said.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, nn

from mae.base.errors import UserError
from mae.config.sections import DataConfig
from mae.networks.vit_sizes import PUBLISHED
from mae.objectives.shared_sections import SET_ELSEWHERE
from mae.pretrained_weights.fit import PATCHES, POSITIONS, square_grid
from mae.pretrained_weights.weight_files import Weights

NUM_HEADS = {size.width: size.heads for size in PUBLISHED.values()} | {1408: 16, 1536: 24, 1664: 16}
"""width of a published ViT → its attention heads: Ti, S, B, L, H, g, DINOv2's g, G"""
DECODER_NUM_HEADS = {512: 16}
"""width of the paper's decoder → its attention heads"""
NAMES = {(size.width, size.depth): size.name for size in PUBLISHED.values()}
"""(width, depth) → name in timm; other sizes are arguments of the first"""
IMAGENET = DataConfig().mean, DataConfig().std
HIERA_ONLY = re.compile(
    r"^(?:blocks\.\d+\.proj\.|pos_embed_win$|multi_scale_fusion_heads\."
    r"|stages\.\d+\.layers\.\d+\.attn\.qkv\.)"
)
"""names of tensors of Hiera, whose others may have the names of a plain ViT"""
CLASS, REGISTERS = "cls_token", "reg_token"


class WeightOptions(NamedTuple):
    """Properties that the user gives of weights that do not record them; None or empty: not given.

    The fields are named after the options.
    """

    num_heads: int | None = None
    decoder_num_heads: int | None = None
    norm_pix_loss: bool | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class InferredSettings(NamedTuple):
    """Settings of a model that holds given weights."""

    model: dict[str, Any]
    """encoder, encoder_kwargs and patch_size"""
    data: dict[str, Any]
    assumed: list[str]
    """assumptions, for the user, each with the option that sets it"""


def infer_settings(weights: Weights, options: WeightOptions) -> InferredSettings:
    """Settings of the encoder, and of the images that it takes.

    Raises UserError where the weights are of no plain Vision Transformer, or where the number of
    attention heads is not known.
    """
    tensors, name = weights.encoder, weights.name
    assumed: list[str] = []
    if weights.architecture and weights.geometry.grid:
        if PATCHES not in tensors:
            raise UserError(f"{name}: lacks {PATCHES}")
        encoder, kwargs = weights.architecture.name, settable(weights.architecture.arguments)
        if options.num_heads is not None:
            raise UserError(f"--num-heads: {name} records its number of attention heads")
        grid = weights.geometry.grid
    else:
        refuse_other_networks(tensors, name)
        encoder, kwargs = _sizes(tensors)
        heads, width = _num_heads(weights, options, assumed), tensors[POSITIONS].shape[2]
        if "embed_dim" in kwargs or heads != NUM_HEADS[width]:
            kwargs["num_heads"] = heads
        grid = _grid(weights, kwargs)
    projection = tensors[PATCHES]
    if projection.ndim != 4 or projection.shape[2] != projection.shape[3]:
        raise UserError(f"{name}: {PATCHES} {list(projection.shape)}: no projection of patches")
    side, channels = projection.shape[2], projection.shape[1]
    if weights.geometry.patch_size:
        side = weights.geometry.patch_size[0]
    data: dict[str, Any] = {"img_size": (grid[0] * side, grid[1] * side), "in_chans": channels}
    data |= _normalisation(weights, options, channels, assumed)
    if weights.crop_pct is not None:
        data["crop_pct"] = weights.crop_pct
    model = {"encoder": encoder, "encoder_kwargs": kwargs, "patch_size": side}
    return InferredSettings(model, data, assumed)


def settable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model of timm that model.encoder_kwargs can hold, and no other setting."""

    def is_number(value: Any) -> bool:
        return isinstance(value, bool | int | float)

    return {
        key: value
        for key, value in arguments.items()
        if key not in SET_ELSEWHERE
        and (is_number(value) or (isinstance(value, list) and all(map(is_number, value))))
    }


def refuse_other_networks(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise UserError unless `tensors` are those of a plain Vision Transformer."""
    if any(HIERA_ONLY.match(key) for key in tensors):
        raise UserError(
            f"{name}: weights of a Hiera, whose sizes do not follow from its tensors: give a "
            "folder with a config.json, as exports and hubs have it, or init.from=FILE to a run"
        )
    for key in (PATCHES, POSITIONS, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"):
        if key not in tensors:
            raise UserError(
                f"{name}: lacks {key}: not the weights of a plain Vision Transformer (others need "
                "a config.json beside them, as exports and hubs have it)"
            )
    projection, positions = tensors[PATCHES], tensors[POSITIONS]
    if projection.ndim != 4 or positions.ndim != 3 or projection.shape[2] != projection.shape[3]:
        shapes = f"{PATCHES} {list(projection.shape)}, {POSITIONS} {list(positions.shape)}"
        raise UserError(f"{name}: {shapes}: not those of a plain Vision Transformer")


def _grid(weights: Weights, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches; UserError where the positions are those of no such grid."""
    name, tokens = weights.name, weights.encoder[POSITIONS].shape[1]
    prefix = _prefix_tokens(weights, kwargs)
    grid = weights.geometry.grid or square_grid(tokens - prefix)
    if grid is None or prod(grid) != tokens - prefix:
        raise UserError(
            f"{name}: {POSITIONS} holds {tokens} tokens, {prefix} of them no patches: "
            "the rest is no square grid"
        )
    return grid


def decoder_num_heads(weights: Weights, options: WeightOptions, assumed: list[str]) -> int:
    """Number of attention heads of the decoder; an assumption is appended to `assumed`.

    Raises UserError where it is not known.
    """
    known = weights.geometry.decoder_num_heads or weights.settings.get("decoder_num_heads")
    width = weights.decoder["mask_token"].shape[-1] if "mask_token" in weights.decoder else 0
    return _chosen_heads(
        weights.name,
        recorded=int(known) if known else None,
        option=("--decoder-num-heads", options.decoder_num_heads),
        width=width,
        table=DECODER_NUM_HEADS,
        part="the decoder",
        assumed=assumed,
    )


def norm_pix_loss(weights: Weights, options: WeightOptions, assumed: list[str]) -> bool:
    """True where the decoder predicts normalised patches; appends an assumption to `assumed`."""
    if options.norm_pix_loss is not None:
        return options.norm_pix_loss
    if "norm_pix_loss" in weights.settings:
        return bool(weights.settings["norm_pix_loss"])
    value = "visualize" not in weights.name.rpartition("/")[2]
    target = "pixels normalised per patch" if value else "plain pixels"
    other = "--no-norm-pix-loss" if value else "--norm-pix-loss"
    assumed.append(f"the decoder predicts {target} (else {other})")
    return value


def set_norm_eps(module: nn.Module, eps: float | None) -> None:
    """Set the epsilon of all LayerNorms of `module`; None changes nothing."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm) and eps is not None:
            part.eps = eps


def norm_epsilons(vit: nn.Module) -> set[float]:
    """Epsilons of the LayerNorms of an encoder."""
    return {part.eps for part in vit.modules() if isinstance(part, nn.LayerNorm)}


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Name in timm and arguments of the encoder, without its attention heads."""
    width = tensors[POSITIONS].shape[2]
    depth = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
    ratio = tensors["blocks.0.mlp.fc1.weight"].shape[0] / width
    kwargs: dict[str, Any] = {
        "class_token": CLASS in tensors,
        "reg_tokens": tensors[REGISTERS].shape[1] if REGISTERS in tensors else 0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "pre_norm": "norm_pre.weight" in tensors,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
        "mlp_ratio": ratio,
    }
    usual = {"class_token": True, "reg_tokens": 0, "qkv_bias": True, "pre_norm": False}
    usual |= {"qk_norm": False, "mlp_ratio": 4.0}
    kwargs = {key: value for key, value in kwargs.items() if value != usual[key]}
    if "blocks.0.ls1.gamma" in tensors:
        kwargs["init_values"] = 1e-5  # any number: it adds the layer scale, which is loaded
    if (width, depth) in NAMES:
        return NAMES[width, depth], kwargs
    return next(iter(NAMES.values())), {"embed_dim": width, "depth": depth, **kwargs}


def _prefix_tokens(weights: Weights, kwargs: dict[str, Any]) -> int:
    """Rows of the positions that are no patches; completes `kwargs` where prefix tokens have none.

    Registers, and at times the class token, are added without positions.
    """
    tensors, tokens = weights.encoder, weights.encoder[POSITIONS].shape[1]
    registers = tensors[REGISTERS].shape[1] if REGISTERS in tensors else 0
    prefix = int(CLASS in tensors) + registers
    grid = weights.geometry.grid
    fits = prod(grid) == tokens - prefix if grid else square_grid(tokens - prefix) is not None
    if fits or not prefix:
        return prefix
    if weights.architecture is None:
        kwargs["no_embed_class"] = True
    return 0


def _num_heads(weights: Weights, options: WeightOptions, assumed: list[str]) -> int:
    known = weights.geometry.num_heads or weights.settings.get("num_heads")
    return _chosen_heads(
        weights.name,
        recorded=int(known) if known else None,
        option=("--num-heads", options.num_heads),
        width=weights.encoder[POSITIONS].shape[2],
        table=NUM_HEADS,
        part="the encoder",
        assumed=assumed,
    )


def _chosen_heads(
    name: str,
    *,
    recorded: int | None,
    option: tuple[str, int | None],
    width: int,
    table: Mapping[int, int],
    part: str,
    assumed: list[str],
) -> int:
    flag, given = option
    if given is not None and recorded not in (None, given):
        raise UserError(f"{flag} {given}: {name} records {recorded} attention heads of {part}")
    heads = given or recorded
    if heads is None:
        if width not in table:
            raise UserError(
                f"{name}: the attention heads of {part} do not follow from its tensors, and its "
                f"width of {width} is none of the published sizes: give {flag}"
            )
        heads = table[width]
        assumed.append(f"{heads} attention heads of {part}, from its width {width} (else {flag})")
    if width % heads:
        raise UserError(f"{flag}: {heads} heads do not divide the width of {part}, {width}")
    return heads


def _normalisation(
    weights: Weights, options: WeightOptions, channels: int, assumed: list[str]
) -> dict[str, Any]:
    """Settings mean and std."""
    chosen: dict[str, Any] = {}
    for number, key in enumerate(("mean", "std")):
        given = getattr(options, key)
        recorded = weights.normalisation and getattr(weights.normalisation, key)
        values = given or recorded
        if not values:
            if channels != 3:
                raise UserError(
                    f"{weights.name}: {key} of its {channels} channels is not recorded: give "
                    f"--mean and --std, {channels} numbers each"
                )
            values = IMAGENET[number]
            assumed.append(f"{key} {list(values)} of the pixels, ImageNet's (else --{key})")
        if len(values) != channels:
            raise UserError(f"--{key}: {len(values)} numbers for images of {channels} channels")
        chosen[key] = tuple(values)
    return chosen
