"""Loading of weights into a timm encoder; patch projection and positions adapted as in timm."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models._manipulate import adapt_input_conv
from torch import Tensor

from mae.base.errors import UserError
from mae.networks.encoders.plain import position_embedding
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.initial_weights import sincos_positions
from mae.pretrained_weights.description import (
    Grid,
    activation_of,
    beyond_tensors,
    eps_of,
    grid_of,
    num_heads_of,
)
from mae.pretrained_weights.weight_files import Weights

PATCHES, POSITIONS = "patch_embed.proj.weight", "pos_embed"


def patch_projection(
    tensor: Tensor,
    own: Tensor,
    where: str,
    adapt_channels: bool,
    adapt_size: bool,
    notes: list[str],
) -> Tensor:
    """Adapt a patch projection [d c p q] to the channels and patch size of `own`.

    Changes are appended to `notes`.  A tensor that differs in anything else is returned unchanged.
    Raises UserError, naming the source `where`, for a change that is not permitted.
    """
    if tensor.ndim != 4 or len(tensor) != len(own):
        return tensor
    differ = f"{where}: {shape_mismatch(PATCHES, tensor, own)}"
    channels, new_channels = tensor.shape[1], own.shape[1]
    if channels != new_channels:
        if channels != 3:
            raise UserError(f"{differ}: only 3 channels can be adapted to others")
        if not adapt_channels:
            raise UserError(f"{differ}: init.adapt_channels=true adapts it")
        tensor = adapt_input_conv(new_channels, tensor)
        notes.append(f"patch projection adapted from 3 to {new_channels} channels")
    if tensor.shape != own.shape:
        if not adapt_size:
            raise UserError(f"{differ}: init.adapt_size=true adapts it")
        notes.append(f"patches resampled from {_size(tensor.shape[2:])} to {_size(own.shape[2:])}")
        tensor = resample_patch_embed(tensor.float(), list(own.shape[2:]))
    return tensor


def encoder_positions(
    tensor: Tensor,
    vit: TimmEncoder,
    old_grid: Grid | None,
    where: str,
    adapt_size: bool,
    notes: list[str],
) -> Tensor:
    """Adapt a position embedding [1 tokens d] to the patch grid of `vit`, as `patch_projection`.

    `old_grid` holds the rows and columns of its patches; None: unknown, assumed to be square where
    the number of patches differs.
    """
    adapter, own = adapter_of(vit), position_embedding(vit)
    grid, prefix = adapter.position_grid(vit), adapter.position_prefix(vit)
    if tensor.ndim != 3 or own.ndim != 3 or tensor.shape[2] != own.shape[2]:
        return tensor
    if tensor.shape == own.shape and old_grid in (None, grid):
        if own.requires_grad:
            return tensor
        recipe = sincos_positions(own.shape[2], grid, prefix)
        if not torch.allclose(tensor.float(), recipe, atol=1e-3):
            notes.append("positions are the source's, not sine and cosine; they stay fixed")
        return tensor
    differ = f"{where}: {shape_mismatch(POSITIONS, tensor, own)}"
    patches = tensor.shape[1] - prefix
    old_grid = old_grid or square_grid(patches)
    if old_grid is None or math.prod(old_grid) != patches:
        raise UserError(f"{differ}, with {prefix} prefix tokens: no grid has so many patches")
    if not adapt_size:
        raise UserError(
            f"{differ} ({_size(old_grid)} patches, now {_size(grid)}): init.adapt_size=true "
            "interpolates it"
        )
    notes.append(f"positions resampled from {_size(old_grid)} to {_size(grid)} patches")
    return resample_abs_pos_embed(tensor, list(grid), list(old_grid), prefix)


def shape_mismatch(key: str, tensor: Tensor, own: Tensor) -> str:
    """Message about two tensors of one name with different shapes."""
    return f"{key} has shape {list(tensor.shape)}, the model's has {list(own.shape)}"


def square_grid(patches: int) -> Grid | None:
    """Rows and columns of a square grid of so many patches; None where there is none."""
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None


def _size(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


class LoadedTensors(NamedTuple):
    """Result of loading weights into a model."""

    tensors: int
    """number of the model's tensors that were loaded"""
    of: int
    """number of the model's tensors"""
    kept: tuple[str, ...]
    """names of the model's tensors that keep their initialisation"""
    skipped: dict[str, str]
    """name of an unused tensor in the source → reason"""
    notes: tuple[str, ...]
    """lines for the user on adapted tensors and deviations from the recipe"""


def load_encoder(
    vit: TimmEncoder,
    weights: Weights,
    *,
    adapt_channels: bool = False,
    adapt_size: bool = False,
    fresh: Collection[str] = (),
    hint: str = "set model.encoder and model.encoder_kwargs to the source's",
) -> LoadedTensors:
    """Load all tensors of `vit`, except those in `fresh` (such as a head) without a counterpart.

    Position embeddings are the source's, which its other weights were trained with; without them
    the model keeps its own.  Where the recipe fixes them they stay fixed.

    `hint` ends messages about another architecture.

    Raises UserError where a tensor is missing, unknown, not finite or of a shape that may not be
    adapted, or where the number of attention heads, the activation or what no tensor holds, such as
    rotations, differ.
    """
    where, own = f"init.from: {weights.name}", vit.state_dict()
    source, renamed = adapter_of(vit).released_names(vit, weights.encoder)
    skipped = weights.skipped | renamed
    for norm, other in (("norm.", "fc_norm."), ("fc_norm.", "norm.")):
        if any(key.startswith(other) for key in own):
            for key in [k for k in source if k.startswith(norm) and k not in own]:
                skipped[key] = "the norm of another pooling"
                del source[key]
    hint = hint and f": {hint}"
    if unknown := [key for key in source if key not in own]:
        raise UserError(f"{where}: {abbreviate(unknown)} has no place in model.encoder{hint}")
    kept = [key for key in own if key not in source]
    if "fc_norm.weight" in weights.encoder and "norm.weight" in kept:
        raise UserError(
            f"{where} is a classifier that pools by the mean: its last norm (fc_norm) is of the "
            "mean, not of the tokens as here; only a classifier with the same pooling starts "
            "from it: give the run that it was fine-tuned from"
        )
    if missing := [key for key in kept if key not in fresh and key != POSITIONS]:
        raise UserError(f"{where} lacks {abbreviate(missing)} of model.encoder{hint}")
    _check_geometry(vit, weights, where, hint)
    notes: list[str] = []
    old_grid, grid = weights.geometry.grid, grid_of(vit)
    if POSITIONS not in own and old_grid not in (None, grid):
        assert old_grid is not None
        notes.append(f"rotary positions of {_size(grid)} patches; trained with {_size(old_grid)}")
    eps = eps_of(vit)
    if weights.geometry.eps not in (None, eps):
        notes.append(f"trained with LayerNorm epsilon {weights.geometry.eps}, this run has {eps}")
    source[PATCHES] = patch_projection(
        source[PATCHES],
        own[PATCHES],
        where=where,
        adapt_channels=adapt_channels,
        adapt_size=adapt_size,
        notes=notes,
    )
    if POSITIONS in source:
        source[POSITIONS] = encoder_positions(
            source[POSITIONS],
            vit,
            old_grid=weights.geometry.position_grid or weights.geometry.grid,
            where=where,
            adapt_size=adapt_size,
            notes=notes,
        )
    elif POSITIONS in own:
        notes.append("the source has no positions: the model's own stay")
    check_tensors(source, own, where)
    vit.load_state_dict(own | source, strict=True)
    return LoadedTensors(len(source), len(own), tuple(kept), skipped, tuple(notes))


def _check_geometry(vit: TimmEncoder, weights: Weights, where: str, hint: str) -> None:
    """Raise UserError where what the tensors' shapes do not show, if known, is not the model's."""
    heads = num_heads_of(vit)
    if weights.geometry.num_heads not in (None, heads):
        raise UserError(
            f"{where}: {weights.geometry.num_heads} attention heads, model.encoder has "
            f"{heads}{hint}"
        )
    activation = activation_of(vit)
    if weights.geometry.activation not in (None, activation):
        raise UserError(
            f"{where}: its activation is {weights.geometry.activation}, that of model.encoder "
            f"{activation}{hint}"
        )
    _check_beyond_tensors(weights.geometry.beyond_tensors, beyond_tensors(vit), where, hint)


def _check_beyond_tensors(
    source: Mapping[str, Any] | None, own: Mapping[str, Any], where: str, hint: str
) -> None:
    """Raise UserError where what no tensor of the source holds, if known, is not the model's."""
    if source is None or source == own:
        return
    differing = [key for key in (*source, *own) if source.get(key) != own.get(key)]
    key = differing[0]
    raise UserError(
        f"{where}: the {key} is {source.get(key, 'not set')}, that of "
        f"model.encoder {own.get(key, 'not set')}{hint}"
    )


def check_tensors(source: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """Raise UserError unless all shapes equal those of `own` and all numbers are finite."""
    for key, tensor in source.items():
        if tensor.shape != own[key].shape:
            raise UserError(
                f"{where}: {shape_mismatch(key, tensor, own[key])}: nothing adapts that"
            )
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{where}: {key} holds {kind}: weights are read as float numbers only")
        if not tensor.isfinite().all():
            raise UserError(f"{where}: damaged: {key} holds numbers that are not finite")


def abbreviate(keys: list[str]) -> str:
    """First name, and the number of the others."""
    return keys[0] if len(keys) == 1 else f"{keys[0]} (and {len(keys) - 1} more)"
