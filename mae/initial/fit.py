"""Weights into a model: every tensor counted, none dropped or left without a word."""

from collections.abc import Collection
from typing import NamedTuple

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.base.errors import UserError
from mae.initial.adapt import (
    PATCHES,
    POSITIONS,
    encoder_positions,
    patch_projection,
    shapes,
)
from mae.initial.geometry import activation_of, eps_of, num_heads_of
from mae.initial.weights import Weights


class Loaded(NamedTuple):
    """What became of the weights."""

    tensors: int
    """of the model that were filled"""
    of: int
    """that it has"""
    kept: tuple[str, ...]
    """its tensors that stay as they were initialised"""
    left_out: dict[str, str]
    """tensors of the source that were not used: why, by name"""
    notes: tuple[str, ...]
    """what was adapted, and what is not as in the recipe"""


def load_encoder(
    vit: VisionTransformer,
    weights: Weights,
    *,
    adapt_channels: bool = False,
    adapt_size: bool = False,
    fresh: Collection[str] = (),
) -> Loaded:
    """Fill all of `vit`, apart from what is `fresh` (such as a head) and not in the source.

    Position embeddings are those of the source: the other weights know no other.  Where the
    recipe fixes them they stay fixed.  A source without keeps the model's own.

    Raises UserError where a tensor is missing, has no place, has another shape that may not be
    adapted, or is not finite, or where the source has another number of attention heads or
    another activation, which no shape tells.
    """
    where, own = f"init.from: {weights.name}", vit.state_dict()
    source = dict(weights.encoder)
    left_out = dict(weights.left_out)
    for norm, other in (("norm.", "fc_norm."), ("fc_norm.", "norm.")):
        if any(key.startswith(other) for key in own):
            for key in [k for k in source if k.startswith(norm) and k not in own]:
                left_out[key] = "the norm of another pooling"
                del source[key]
    advice = "set model.encoder and model.encoder_kwargs to what the weights are of"
    if unknown := [key for key in source if key not in own]:
        raise UserError(f"{where}: {some(unknown)} has no place in model.encoder: {advice}")
    kept = [key for key in own if key not in source]
    if "fc_norm.weight" in weights.encoder and "norm.weight" in kept:
        raise UserError(
            f"{where} is a classifier that pools by the mean: its last norm (fc_norm) is of the "
            "mean, not of the tokens as here; only a classifier with the same pooling starts "
            "from it: give the run that it was fine-tuned from"
        )
    if missing := [key for key in kept if key not in fresh and key != POSITIONS]:
        raise UserError(f"{where} lacks {some(missing)} of model.encoder: {advice}")
    heads = num_heads_of(vit)
    if weights.geometry.num_heads not in (None, heads):
        raise UserError(
            f"{where}: {weights.geometry.num_heads} attention heads, model.encoder has {heads}: "
            f"{advice}"
        )
    activation, eps = activation_of(vit), eps_of(vit)
    if weights.geometry.activation not in (None, activation):
        raise UserError(
            f"{where}: its activation is {weights.geometry.activation}, that of model.encoder "
            f"{activation}: {advice}"
        )
    notes: list[str] = []
    if weights.geometry.eps not in (None, eps):
        notes.append(f"trained with LayerNorm epsilon {weights.geometry.eps}, this run has {eps}")
    source[PATCHES] = patch_projection(
        source[PATCHES], own[PATCHES], where, adapt_channels, adapt_size, notes
    )
    if POSITIONS in source:
        source[POSITIONS] = encoder_positions(
            source[POSITIONS], vit, weights.geometry.grid, where, adapt_size, notes
        )
    else:
        notes.append("the source has no positions: the model's own stay")
    check_tensors(source, own, where)
    vit.load_state_dict(own | source, strict=True)
    return Loaded(len(source), len(own), tuple(kept), left_out, tuple(notes))


def check_tensors(source: dict[str, Tensor], own: dict[str, Tensor], where: str) -> None:
    """UserError unless all shapes are those of `own` and all numbers finite."""
    for key, tensor in source.items():
        if tensor.shape != own[key].shape:
            raise UserError(f"{where}: {shapes(key, tensor, own[key])}: nothing adapts that")
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{where}: {key} holds {kind}: weights are read as float numbers only")
        if not tensor.isfinite().all():
            raise UserError(f"{where}: damaged: {key} holds numbers that are not finite")


def some(keys: list[str]) -> str:
    """The first name, and how many more there are."""
    return keys[0] if len(keys) == 1 else f"{keys[0]} (and {len(keys) - 1} more)"
