"""Attention maps of the encoder's last block."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor

from mae.base.errors import UserError
from mae.pictures.drawing import displayable, heat_map, to_pil
from mae.pictures.sheet import Cell, Scale, Sheet

SCALE_QUANTILE = 0.995
"""quantile of the attention at the upper end of the scale"""

MIN_BRIGHTNESS = 0.25
"""brightness of patches without attention in the image lit by attention, of 1"""


class AttentionMaps(NamedTuple):
    """Attention of the last block to each patch."""

    heads: Float[Tensor, "b heads n"]
    """share of each patch; the remainder to 1 goes to the prefix tokens"""
    query: str
    """token whose attention this is, in words"""


@torch.no_grad()
def last_attention(
    vit: VisionTransformer, encode: Callable[[Tensor], object], images: Tensor
) -> AttentionMaps:
    """Attention of the class token, or the mean attention of all patches.

    The mean is used where there is no class token, or where a classifier pools the patches: the
    class token's last attention is untrained then, since nothing reads it.

    `encode` runs the encoder `vit` on whole images.  Raises UserError where the last block's
    attention is not timm's plain one.
    """
    weights = attention_weights(vit, encode, images)
    patches = slice(vit.num_prefix_tokens, None)
    if vit.has_class_token and vit.global_pool != "avg":
        return AttentionMaps(weights[:, :, 0, patches], "the class token")
    return AttentionMaps(weights[:, :, patches, patches].mean(dim=2), "the mean patch")


@torch.no_grad()
def attention_weights(
    vit: VisionTransformer, encode: Callable[[Tensor], object], images: Tensor
) -> Float[Tensor, "b heads tokens tokens"]:
    """softmax(q kᵀ / √d) of the last block, from its own weights: timm's fused path keeps none.

    Axes: queries, then keys.
    """
    attention = vit.blocks[-1].attn if hasattr(vit.blocks[-1], "attn") else None
    if not isinstance(attention, Attention):
        raise UserError("mae attention: the last block's attention is not timm's plain one")
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        encode(images)
    finally:
        handle.remove()
    b, n, _ = seen[0].shape
    qkv = attention.qkv(seen[0]).view(b, n, 3, attention.num_heads, -1)
    q, k = (qkv[:, :, which].transpose(1, 2) for which in (0, 1))
    q, k = attention.q_norm(q), attention.k_norm(k)
    return (q.float() @ k.float().transpose(-2, -1) * attention.scale).softmax(dim=-1)


def attention_sheet(
    images: Tensor,
    names: Sequence[str],
    attention: AttentionMaps,
    grid: tuple[int, int],
    title: str,
) -> Sheet:
    """Sheet with a row per image: original, lit by the mean attention, the mean, and each head."""
    shown = displayable(images).cpu()
    heads = attention.heads.cpu()
    n, (h, w) = heads.shape[-1], shown.shape[-2:]
    times = heads * n  # 1 = an even share
    mean = times.mean(dim=1)
    top = max(
        torch.quantile(torch.cat([times.flatten(), mean.flatten()]), SCALE_QUANTILE).item(), 1.0
    )
    rows = []
    for number, name in enumerate(names):
        light = MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * (
            mean[number] / mean[number].max().clamp(min=1e-12)
        )
        on_pixels = torch.nn.functional.interpolate(light.view(1, 1, *grid), size=(h, w))[0]
        maps = [mean[number], *times[number]]
        shares = [heads[number].mean(dim=0).sum(), *heads[number].sum(dim=-1)]
        rows.append(
            [
                Cell(to_pil(shown[number]), name),
                Cell(to_pil(shown[number] * on_pixels)),
                *(
                    Cell(heat_map(one.view(grid), top, (h, w)), f"{share:.0%}")
                    for one, share in zip(maps, shares, strict=True)
                ),
            ]
        )
    numbered = [f"head {number + 1}" for number in range(heads.shape[1])]
    notes = [
        f"Attention of {attention.query} in the last block: softmax(q·k/√d). Below each map: the "
        "share that goes to patches; the rest goes to the class token and registers.",
        "lit: the image, bright where the mean attention over the heads is high.",
    ]
    scale = Scale("attention to a patch, 1 = an even share", "0", f"{top:.2g} and more")
    return Sheet(title, ["original", "lit", "mean", *numbered], rows, notes, scale)
