"""Attention maps of the encoder's last block."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mae.base.errors import UserError
from mae.networks.encoders.registry import TimmEncoder, adapter_of
from mae.networks.vit import encoder_shape
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
    vit: TimmEncoder, encode: Callable[[Tensor], object], images: Tensor
) -> AttentionMaps:
    """Attention of the class token, or the mean attention of all patches.

    The mean is used where there is no class token, or where a classifier pools the patches: the
    class token's last attention is untrained then, since nothing reads it.

    `encode` runs the encoder `vit` on whole images.  Raises UserError as `attention_weights`.
    """
    shape, weights = encoder_shape(vit), attention_weights(vit, encode, images)
    patches = slice(shape.num_prefix_tokens, None)
    if shape.has_class_token and adapter_of(vit).pooling(vit) != "avg":
        return AttentionMaps(weights[:, :, 0, patches], "the class token")
    return AttentionMaps(weights[:, :, patches, patches].mean(dim=2), "the mean patch")


@torch.no_grad()
def attention_weights(
    vit: TimmEncoder, encode: Callable[[Tensor], object], images: Tensor
) -> Float[Tensor, "b heads tokens tokens"]:
    """softmax(q kᵀ / √d) of the last block, from the queries and keys of timm's own attention.

    These are normalised and rotated there, as the model has it; timm's fused attention keeps no
    weights.  Axes: queries, then keys; prefix tokens, then patches by rows.  Raises UserError where
    the last block does not compute one attention of all tokens.
    """
    adapter = adapter_of(vit)
    attention: Any = getattr(adapter.blocks(vit)[-1], "attn", None)
    calls = FusedCalls()
    if attention is not None:
        before = attention.register_forward_pre_hook(lambda module, inputs: calls.start())
        after = attention.register_forward_hook(lambda module, inputs, output: calls.stop())
        was_fused = getattr(attention, "fused_attn", True)
        attention.fused_attn = True
        try:
            with calls:
                encode(images)
        finally:
            attention.fused_attn = was_fused
            before.remove()
            after.remove()
    shapes = [(one.shape, other.shape) for one, other in calls.queries_and_keys]
    if len(shapes) != 1 or len(shapes[0][0]) != 4 or shapes[0][0][2] != shapes[0][1][2]:
        raise UserError("mae attention: the last block has not one attention of all its tokens")
    q, k = calls.queries_and_keys[0]
    weights = (q.float() @ k.float().transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    prefix = adapter.shape(vit).num_prefix_tokens
    order = torch.cat([torch.arange(prefix), prefix + adapter.by_rows(vit)]).to(weights.device)
    return weights[:, :, order][:, :, :, order]


class FusedCalls(TorchFunctionMode):
    """Queries and keys of the fused attentions between `start` and `stop`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_recording = False
        self.queries_and_keys: list[tuple[Tensor, Tensor]] = []

    def start(self) -> None:
        """Record from here on."""
        self.is_recording = True

    def stop(self) -> None:
        """Record no more."""
        self.is_recording = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`; record its arguments if it is a fused attention without a bias."""
        kwargs = kwargs or {}
        is_attention = func is F.scaled_dot_product_attention
        if self.is_recording and is_attention and kwargs.get("attn_mask") is None:
            self.queries_and_keys.append((args[0], args[1]))
        return func(*args, **kwargs)


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
