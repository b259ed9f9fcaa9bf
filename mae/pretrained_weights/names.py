"""Renaming of weights from other tools to our names: timm's for the encoder, and a decoder's.

Known are timm's names, those of the paper's release (`decoder_blocks.0…`), of transformers' ViT
and ViTMAE (`vit.encoder.layer.0…`), and each of them with the prefixes that wrappers add.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mae.base.errors import UserError

AVERAGE = "average."
"""prefix of averaged weights in our checkpoints; earlier versions omitted `encoder.` after it"""
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|backbone|model|vit|hiera|encoder|average)\.)+")
DECODER = re.compile(r"^decoder[._](?:decoder_)?(?:encoder\.)?")
LATENTS = re.compile(r"^(?:bottleneck|from_latent)\.|^log_sigma$")
"""parts of our autoencoders between encoder and decoder"""
HEADS = re.compile(
    r"^(?:head(?!\.norm\.)|classifier|pre_logits|pooler(?!\.layernorm\.)|attn_pool)\."
)
"""heads, without the norm of the encoder that Hiera has there"""
LINEAR_HEADS = re.compile(r"^(?:head|classifier)\.(?:(?:fc|projection)\.)?")

RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^layers?\.(\d+)\.", r"blocks.\1."),
        (
            r"^(blocks\.\d+)\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.",
            r"\1.attn.\2.",
        ),
        (r"^(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
        (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
        (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
        (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
        (r"^layernorm\.", "norm."),
    )
]

ATTENTION_POOLING = "an attention pooling"
"""reason why the layer is unused that makes one vector of all tokens"""
NOTES = ("the averaged weights (average.*) are loaded, as in its evaluation",)


class RenamedWeights(NamedTuple):
    """Weights under our names."""

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    """empty where there is none"""
    head: dict[str, Tensor]
    """linear classifier, `head.*`; also among the skipped"""
    skipped: dict[str, str]
    """name in the source → reason, for tensors that our encoder and decoder do not have"""
    notes: tuple[str, ...]
    """lines for the user on the choice among several sets of weights"""


def to_our_names(tensors: Mapping[str, Tensor], where: str) -> RenamedWeights:
    """Rename `tensors` and split them into encoder and decoder.

    Raises UserError, naming the source `where`, for two tensors of one name.
    """
    encoder: dict[str, Tensor] = {}
    decoder: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    first: dict[tuple[bool, str], str] = {}
    twins = averaged(tensors)
    skipped |= dict.fromkeys(twins.values(), "the weights that were averaged")
    is_average = any(key.startswith(AVERAGE) for key in tensors)
    has_decoder = any(DECODER.match(WRAPPERS.sub("", key)) for key in tensors)
    for key, tensor in tensors.items():
        if key in skipped:
            continue
        name = WRAPPERS.sub("", key)
        part, name = (decoder if DECODER.match(name) else encoder), DECODER.sub("", name)
        for pattern, replacement in RULES:
            name = pattern.sub(replacement, name)
        if part is encoder and HEADS.match(name):
            skipped[key] = ATTENTION_POOLING if name.startswith("attn_pool.") else "a head"
            if LINEAR_HEADS.match(name):
                head[LINEAR_HEADS.sub("head.", name)] = tensor
            continue
        if LATENTS.match(name):
            skipped[key] = "the bottleneck of an autoencoder"
            continue
        if part is encoder and name == "mask_token":
            if not has_decoder:
                skipped[key] = "no decoder beside it"
                continue
            part = decoder
        own = part is decoder, name  # both parts have a norm.weight
        if name in part:
            raise UserError(
                f"init.from: {where}: {first[own]} and {key} are both {name}: give a file that "
                "holds one model"
            )
        part[name], first[own] = tensor, key
    notes = NOTES if is_average else ()
    return RenamedWeights(_fused(encoder), _fused(decoder), head, skipped, notes)


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name of each averaged weight → name of its unaveraged one, where both exist."""
    twins = {}
    for key in tensors:
        if key.startswith(AVERAGE):
            name = key.removeprefix(AVERAGE)
            found = next((twin for twin in (name, f"encoder.{name}") if twin in tensors), None)
            twins |= {key: found} if found else {}
    return twins


class AveragedWeights(NamedTuple):
    """Weights of a checkpoint under their own names, averaged ones where there are any."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]
    """lines for the user on the choice among several sets of weights"""


def prefer_averages(tensors: Mapping[str, Tensor]) -> AveragedWeights:
    """Replace weights by their averages, where `tensors` holds both."""
    twins = averaged(tensors)
    chosen = {key: tensor for key, tensor in tensors.items() if key not in twins}
    chosen |= {weight: tensors[average] for average, weight in twins.items()}
    return AveragedWeights(chosen, NOTES if twins else ())


def _fused(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """Concatenate `attn.q`, `attn.k`, `attn.v` to `attn.qkv`, where all three exist and fit."""
    fused = dict(part)
    for query in [name for name in part if ".attn.q." in name]:
        names = [query.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        three = [part[name] for name in names if name in part]
        if len(three) == 3 and len({tensor.shape for tensor in three}) == 1:
            fused[query.replace(".attn.q.", ".attn.qkv.")] = torch.cat(three)
            for name in names:
                del fused[name]
    return fused
