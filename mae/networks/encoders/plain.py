"""Adapter of timm's VisionTransformer: ViT, DeiT, DINOv2, SigLIP …, with or without registers."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import PatchEmbed
from timm.models import checkpoint
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.networks.encoders.contract import EncoderAdapter, EncoderShape
from mae.networks.initial_weights import (
    initialize_linears,
    initialize_projection,
    sincos_positions,
)
from mae.networks.patches import gather_tokens


class PlainAdapter(EncoderAdapter[VisionTransformer]):
    """Adapter of timm's VisionTransformer with absolute positions."""

    kind = VisionTransformer
    name = "plain Vision Transformers"
    modules = ("timm.models.vision_transformer", "timm.models.deit")
    # One size at a time: positions that are resized in each pass would be so in every step.
    arguments: ClassVar[dict[str, Any]] = {"dynamic_img_size": False}
    final_norm = "fc_norm"
    stem = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre")

    def shape(self, encoder: VisionTransformer) -> EncoderShape:
        """Sizes of `encoder`."""
        return vit_shape(encoder, encoder.has_class_token)

    def other_parts(self, encoder: VisionTransformer) -> list[str]:
        """A stem that mixes neighbouring patches."""
        return ["a convolutional stem"] * (type(encoder.patch_embed) is not PatchEmbed)

    def refusals(self, encoder: VisionTransformer) -> list[str]:
        """Parts that keep patches from being embedded independently of each other."""
        unsupported = {
            "no absolute position embedding": encoder.pos_embed is None,
            "dynamic image size": encoder.dynamic_img_size,
            "patch dropout": not isinstance(encoder.patch_drop, nn.Identity),
            "a norm after the pooling": not isinstance(encoder.fc_norm, nn.Identity),
        }
        return [reason for reason, applies in unsupported.items() if applies]

    @torch.no_grad()
    def initialize(self, encoder: VisionTransformer) -> None:
        """Xavier-uniform, fixed sine-cosine positions; tokens as in the released code."""
        initialize_linears(encoder)
        initialize_projection(encoder.patch_embed.proj)
        initialize_tokens(encoder)

    def forward_visible(
        self,
        encoder: VisionTransformer,
        visible: Float[Tensor, "b k pixels"],
        ids_keep: Int[Tensor, "b k"],
    ) -> list[Float[Tensor, "b _ _"]]:
        """Tokens after each block, the last ones normalised."""
        tokens = encoder.norm_pre(encoder.pos_drop(embed_visible(encoder, visible, ids_keep)))
        features = []
        for block in encoder.blocks:
            tokens = checkpoint(block, tokens) if encoder.grad_checkpointing else block(tokens)
            features.append(tokens)
        return [*features[:-1], encoder.norm(tokens)]

    def position_prefix(self, encoder: VisionTransformer) -> int:
        """Number of positions of class token and registers."""
        return position_prefix(encoder)

    def timm_arguments(self, encoder: VisionTransformer) -> dict[str, Any]:
        """Image and patch size, channels, place of the final norm."""
        # A pretrained encoder normalises the tokens, whatever the pooling: see `build_encoder`.
        # A classifier may have its final norm behind the pooling.
        return size_arguments(encoder) | {
            "fc_norm": not isinstance(encoder.fc_norm, nn.Identity),
        }


def vit_shape(vit: VisionTransformer | Eva, has_class_token: bool) -> EncoderShape:
    """Sizes of a Vision Transformer whose patches are projected independently of each other."""
    embedding: Any = vit.patch_embed
    height, width = embedding.img_size
    p, q = embedding.patch_size
    return EncoderShape(
        img_size=(height, width),
        patch_size=(p, q),
        in_chans=embedding.proj.in_channels,
        embed_dim=vit.embed_dim,
        widths=(vit.embed_dim,) * len(vit.blocks),
        num_prefix_tokens=vit.num_prefix_tokens,
        has_class_token=has_class_token,
        num_heads=getattr(getattr(vit.blocks[0], "attn", None), "num_heads", None),
    )


def size_arguments(vit: VisionTransformer | Eva) -> dict[str, Any]:
    """Arguments of `timm.create_model` for image size, patch size and channels."""
    shape = vit_shape(vit, has_class_token=False)
    return {
        "img_size": list(shape.img_size),
        "patch_size": shape.patch_size[0],
        "in_chans": shape.in_chans,
    }


def position_prefix(vit: VisionTransformer | Eva) -> int:
    """Number of positions in `pos_embed` before those of the patches."""
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def position_embedding(encoder: nn.Module) -> nn.Parameter:
    """The absolute positions of an encoder that has them."""
    return encoder.get_parameter("pos_embed")


def prefix_tokens(vit: VisionTransformer | Eva) -> list[nn.Parameter]:
    """Class token and registers, as far as there are any, [1 k d] each."""
    return [token for token in (vit.cls_token, vit.reg_token) if token is not None]


@torch.no_grad()
def initialize_tokens(vit: VisionTransformer | Eva) -> None:
    """Draw class token and registers; fix absolute positions, if any, to sines and cosines."""
    for token in prefix_tokens(vit):
        nn.init.normal_(token, std=0.02)
    if vit.pos_embed is not None:
        grid = vit_shape(vit, has_class_token=False).grid_size
        vit.pos_embed.copy_(sincos_positions(vit.embed_dim, grid, position_prefix(vit)))
        vit.pos_embed.requires_grad_(False)


def embed_visible(
    vit: VisionTransformer | Eva,
    visible: Float[Tensor, "b k pixels"],
    ids_keep: Int[Tensor, "b k"],
) -> Float[Tensor, "b _ d"]:
    """[prefix tokens, visible patches], projected and with their absolute positions, if any."""
    b = visible.shape[0]
    projection = vit.patch_embed.proj
    # A convolution whose stride equals its kernel is a linear map of each patch; patches are
    # channels last.  Two flat views keep the gradient contiguous, as DDP requires.
    by_channel = projection.weight.flatten(1).unflatten(1, (projection.in_channels, -1))
    weight = by_channel.transpose(1, 2).flatten(1)
    tokens = vit.patch_embed.norm(F.linear(visible, weight, projection.bias))

    prefix, positions = position_prefix(vit), vit.pos_embed
    if positions is not None:
        tokens = tokens + gather_tokens(positions[:, prefix:].expand(b, -1, -1), ids_keep)
    before: list[Tensor] = []
    for token in prefix_tokens(vit):  # one by one, as DDP requires contiguous gradients
        begin = sum(one.shape[1] for one in before)
        if prefix and positions is not None:
            token = token + positions[:, begin : begin + token.shape[1]]
        before.append(token.expand(b, -1, -1).to(tokens.dtype))
    return torch.cat([*before, tokens], dim=1) if before else tokens
