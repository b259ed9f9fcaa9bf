"""Adapter of timm's Eva: Vision Transformers with rotary positions, such as DINOv3 and EVA-02.

Each visible patch is attended with the rotation of its own position, whatever the options: axial
rotations ("cat", normalised as in DINOv3, or of several sections), or mixed ones, learned for each
block and head (Heo et al. 2024, arXiv:2403.13298).  timm's path for dropped patches selects them in
the same way; the tests compare the two.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from timm.layers import PatchEmbed
from timm.models import checkpoint
from timm.models.eva import Eva
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.networks.encoders.contract import EncoderAdapter, EncoderShape, NamedWeights
from mae.networks.encoders.plain import (
    embed_visible,
    initialize_tokens,
    position_prefix,
    size_arguments,
    vit_shape,
)
from mae.networks.encoders.rope_names import to_timm_names
from mae.networks.initial_weights import initialize_linears, initialize_projection

PERIODS = re.compile(r"(?:^|\.)rope_embed(?:dings)?\.(periods|inv_freq)$")
"""names of the periods of rotations, and of their inverse, in DINOv3's and transformers' files"""
ROUNDED = 1e-2
"""relative difference of periods that are the same, rounded to bfloat16"""


class RopeAdapter(EncoderAdapter[Eva]):
    """Adapter of timm's Eva, with rotary positions, absolute ones, or both."""

    kind = Eva
    name = "Vision Transformers with rotary positions"
    modules = ("timm.models.eva",)
    # Rotations of one size, computed once instead of in each step.
    arguments: ClassVar[dict[str, Any]] = {"dynamic_img_size": False}
    final_norm = "use_fc_norm"
    # The frequencies of mixed rotations are one parameter of all blocks, the first one included.
    stem = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "rope")

    def size_arguments(
        self, patch_size: int | None, given: Mapping[str, Any], name: str
    ) -> dict[str, Any]:
        """Arguments for patches of `patch_size` pixels; UserError for heads of odd widths."""
        width, heads = given.get("embed_dim"), given.get("num_heads")
        if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % (4 * heads):
            raise UserError(
                f"model.encoder_kwargs: embed_dim {width}, num_heads {heads}: rotary positions "
                "need a multiple of 4 numbers for each head"
            )
        return super().size_arguments(patch_size, given, name)

    def shape(self, encoder: Eva) -> EncoderShape:
        """Sizes of `encoder`."""
        return vit_shape(encoder, encoder.cls_token is not None)

    def other_parts(self, encoder: Eva) -> list[str]:
        """A patch embedding that is no linear projection."""
        return ["another patch embedding"] * (type(encoder.patch_embed) is not PatchEmbed)

    def refusals(self, encoder: Eva) -> list[str]:
        """Parts that keep patches from being embedded independently of each other."""
        unsupported = {
            "neither absolute nor rotary positions": encoder.pos_embed is None
            and encoder.rope is None,
            "patch dropout": encoder.patch_drop is not None,
            "a norm after the pooling": not isinstance(encoder.fc_norm, nn.Identity),
        }
        return [reason for reason, applies in unsupported.items() if applies]

    @torch.no_grad()
    def initialize(self, encoder: Eva) -> None:
        """Xavier-uniform linear layers, gates of MLPs among them; fixed sine-cosine positions.

        Layer scales and the frequencies of mixed rotations, of which the paper has none, keep
        timm's values; so do norms without bias, which are ones.
        """
        initialize_linears(encoder)
        initialize_projection(encoder.patch_embed.proj)
        for name, parameter in encoder.named_parameters():
            if name.endswith((".q_bias", ".v_bias")):
                nn.init.zeros_(parameter)
        initialize_tokens(encoder)

    def forward_visible(
        self,
        encoder: Eva,
        visible: Float[Tensor, "b k pixels"],
        ids_keep: Int[Tensor, "b k"],
    ) -> list[Float[Tensor, "b _ _"]]:
        """Tokens after each block, the last ones normalised."""
        tokens = encoder.norm_pre(encoder.pos_drop(embed_visible(encoder, visible, ids_keep)))
        table = rotations(encoder)
        rope = None if table is None or table.ndim == 4 else table[ids_keep][:, None]
        features = []
        for number, block in enumerate(encoder.blocks):
            if table is not None and table.ndim == 4:
                # Indexing, whose gradient is added up in a fixed order on GPUs, unlike gather's.
                rope = table[number].transpose(0, 1)[ids_keep].transpose(1, 2)
            if encoder.grad_checkpointing:
                tokens = checkpoint(block, tokens, rope=rope)
            else:
                tokens = block(tokens, rope=rope)
            features.append(tokens)
        return [*features[:-1], encoder.norm(tokens)]

    def released_names(self, encoder: Eva, tensors: Mapping[str, Tensor]) -> NamedWeights:
        """Weights of DINOv3, EVA, Perception Encoder and Sapiens2 under timm's names.

        Raises UserError also where the source holds periods of other rotations.
        """
        _check_periods(encoder, tensors)
        return to_timm_names(tensors, encoder.state_dict().keys())

    def beyond_tensors(self, encoder: Eva) -> dict[str, Any]:
        """Kind and options of the rotations."""
        options = rotation_options(encoder)
        return {f"{key} of its rotary positions": value for key, value in options.items()}

    def position_prefix(self, encoder: Eva) -> int:
        """Number of positions of class token and registers."""
        return position_prefix(encoder)

    def timm_arguments(self, encoder: Eva) -> dict[str, Any]:
        """Image and patch size, channels, place of the final norm."""
        return size_arguments(encoder) | {
            "use_fc_norm": not isinstance(encoder.fc_norm, nn.Identity),
            "use_post_transformer_norm": not isinstance(encoder.norm, nn.Identity),
        }


ROTATION_OPTIONS = (
    "temperature",
    "min_period",
    "max_period",
    "max_res",
    "in_pixels",
    "linear_bands",
    "ref_feat_shape",
    "grid_offset",
    "grid_indexing",
    "grid_type",
    "normalize_coords",
    "rotate_half",
    "mrope_section",
)
"""attributes of timm's rotary embeddings that change the rotation of a position"""


def _check_periods(vit: Eva, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where periods of rotations in a source, as in DINOv3's, are not the model's.

    Released ones are rounded to bfloat16; transformers' are inverse.
    """
    own = getattr(vit.rope, "periods", None)
    if own is None or own.is_meta:
        return
    for key, tensor in tensors.items():
        if not (match := PERIODS.search(key)):
            continue
        found = tensor.float().cpu()
        found = found.reciprocal() if match[1] == "inv_freq" else found
        expected = own.float().cpu()
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=ROUNDED):
            shown = ["{:g} to {:g}".format(*one.aminmax()) for one in (found, expected)]
            raise UserError(
                f"init.from: {key}: periods of rotary positions from {shown[0]}, those of "
                f"model.encoder from {shown[1]}: set its rope_temperature in model.encoder_kwargs, "
                "or another model.encoder"
            )


def rotation_options(vit: Eva) -> dict[str, Any]:
    """Kind and options of the rotations, which no tensor holds; empty: none.

    Frequencies of mixed rotations are a parameter, so that their temperature only begins them.
    """
    if vit.rope is None:
        return {}
    found = {"kind": type(vit.rope).__name__}
    found |= {key: value for key in ROTATION_OPTIONS if (value := getattr(vit.rope, key, None))}
    if "freqs" in dict(vit.rope.named_parameters()):
        found.pop("temperature", None)
    return found


def rotations(vit: Eva) -> Tensor | None:
    """Sines and cosines of all patches, [n 2e], or for each block and head [depth heads n 2e].

    None: the model has absolute positions only.  Models that change the coordinates at random in
    training (Sapiens2) do so here, once for all images of a forward pass.
    """
    rope: Any = vit.rope
    if rope is None:
        return None
    if vit.dynamic_img_size or not hasattr(rope, "feat_shape"):
        return rope.get_embed(shape=vit_shape(vit, has_class_token=False).grid_size)
    return rope.get_embed()
