"""Limits of the formats that know the plain Vision Transformer only."""

from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from mae.base.errors import UserError


def refuse_beyond_plain(vit: VisionTransformer, format: str) -> None:
    """UserError naming what `format` has no place for: it would be dropped without a word."""
    blocks = list(vit.blocks.children())
    names = vit.state_dict()
    mlps = [block.mlp for block in blocks if isinstance(block, Block)]
    norms = [m for m in vit.modules() if isinstance(m, nn.LayerNorm)]
    lacking = {
        "no class token": not vit.has_class_token,
        "registers": vit.num_reg_tokens > 0,
        "a class token without a position": vit.has_class_token and vit.no_embed_class,
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        "no final norm": not isinstance(vit.norm, nn.LayerNorm),
        "a norm of the embedded patches": not isinstance(vit.patch_embed.norm, nn.Identity),
        "blocks of another kind": any(type(block) is not Block for block in blocks),
        "normalised queries and keys": "blocks.0.attn.q_norm.weight" in names,
        "queries, keys and values without bias": "blocks.0.attn.qkv.bias" not in names,
        "layer scale": "blocks.0.ls1.gamma" in names,
        "another MLP": any(type(m) is not Mlp for m in mlps),
        "another activation than GELU": any(
            not isinstance(m.act, nn.GELU) or m.act.approximate != "none"
            for m in mlps
            if isinstance(m, Mlp)
        ),
        "LayerNorms of another epsilon than 1e-6": any(norm.eps != 1e-6 for norm in norms),
        "patches that are not square": len(set(vit.patch_embed.patch_size)) > 1,
        "patches projected without bias": vit.patch_embed.proj.bias is None,
        "a classifier": vit.num_classes > 0,
    }
    if found := [reason for reason, is_so in lacking.items() if is_so]:
        raise UserError(f"--format {format} has no place for {', '.join(found)}; --format timm has")
