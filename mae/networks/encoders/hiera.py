"""Adapter of timm's Hiera (Ryali et al. 2023, arXiv:2306.00989): stages halve the resolution.

A mask unit is hidden or visible as a whole: 8 x 8 tokens of the first of four stages, 32 x 32 px.
Tokens of visible units alone pass the stages, as with timm's `mask` argument; the tests compare the
two.  The last stage has one token a unit, or, as in the release's pretraining
(q_pool = 2), 2 x 2 of them.  The decoder reads the sum of stages, each mapped to the last one's
tokens ("multi-scale fusion").
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from timm.layers import resample_abs_pos_embed
from timm.models import checkpoint
from timm.models.hiera import Hiera, Reroll, Unroll
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.networks.encoders.contract import EncoderAdapter, EncoderShape, NamedWeights
from mae.networks.encoders.hiera_names import stage_depths, to_timm_names
from mae.networks.encoders.hiera_stages import (
    Fusion,
    by_patches,
    pixels_per_token,
    stage_widths,
    unit_of,
    unit_tokens,
)
from mae.networks.initial_weights import initialize_linears, initialize_projection
from mae.networks.patches import unpatchify

POOLS = 3
"""steps of halved resolution in timm's models"""


class HieraAdapter(EncoderAdapter[Hiera]):
    """Adapter of timm's Hiera, with positions of tokens, or of windows and the image."""

    kind = Hiera
    name = "hierarchical Vision Transformers (Hiera)"
    modules = ("timm.models.hiera",)
    final_norm = None
    head = "head.fc"
    mean = "the norm of the mean of the last tokens"
    ordered_code = (
        "tokens = encoder.head.norm(encoder.reroll(tokens, len(encoder.blocks) - 1).flatten(1, 2))"
        "  # by rows, normalised\n"
    )
    stem = ("pos_embed", "pos_embed_win", "patch_embed")

    def size_arguments(
        self, patch_size: int | None, given: Mapping[str, Any], name: str
    ) -> dict[str, Any]:
        """Strides and kernels for last tokens of `patch_size` pixels, as in the release.

        Each of `q_pool` stages halves the resolution; a mask unit is a token where all do.  Kernels
        overlap by the stride less one on either side: 7 px for a stride of 4.
        """
        found: dict[str, Any] = {}
        stages = given.get("stages", (1,) * (POOLS + 1))
        if (
            not isinstance(stages, list | tuple)
            or len(stages) < 2
            or not all(isinstance(depth, int) and depth > 0 for depth in stages)
        ):
            raise UserError(
                f"model.encoder_kwargs.stages: {stages}: give the number of blocks of each stage, "
                "at least two, such as [1, 2, 3]"
            )
        pools = given.get("q_pool", len(stages) - 1)
        if not isinstance(pools, int) or not 0 < pools < len(stages):
            raise UserError(
                f"model.encoder_kwargs.q_pool: {pools}: with {len(stages)} stages 1 to "
                f"{len(stages) - 1} halve the resolution"
            )
        if "stages" in given:
            found |= {"q_pool": pools, "mask_unit_size": (2 ** (len(stages) - 1),) * 2}
        if patch_size is not None:
            stride, rest = divmod(patch_size, 2**pools)
            if rest:
                raise UserError(
                    f"model.patch_size: {name} halves the resolution {pools} times: its last "
                    f"tokens are multiples of {2**pools} px, not {patch_size} px; for smaller ones "
                    "set fewer stages, such as model.encoder_kwargs.stages=[1,2,3]"
                )
            found["patch_stride"] = (stride, stride)
            found["patch_kernel"] = (2 * stride - 1, 2 * stride - 1)
            found["patch_padding"] = (stride - 1, stride - 1)
        return found

    def shape(self, encoder: Hiera) -> EncoderShape:
        """Sizes of `encoder`; of one without its last stages, those of its last tokens."""
        stride = pixels_per_token(encoder)
        rows, columns = encoder.tokens_spatial_shape
        height, width = encoder.patch_stride
        last: Any = encoder.blocks[-1]
        return EncoderShape(
            img_size=(rows * height, columns * width),
            patch_size=stride,
            in_chans=encoder.in_chans,
            embed_dim=last.dim_out,
            widths=tuple(stage_widths(encoder)),
            num_prefix_tokens=0,
            has_class_token=False,
            num_heads=last.attn.heads,
        )

    def refusals(self, encoder: Hiera) -> list[str]:
        """Parts that keep mask units from being left out, or from knowing of each other."""
        steps = len(encoder.stage_ends) - 1
        side = 2**steps
        blocks: list[Any] = list(encoder.blocks)
        windows = "attention within mask units only (model.encoder_kwargs.mask_unit_attn)"
        unsupported = {
            "positions of time": encoder.pos_embed is None,
            f"mask units other than {side} x {side}, of {steps + 1} stages": (
                tuple(encoder.q_stride) != (2, 2) or tuple(encoder.mask_unit_size) != (side, side)
            ),
            "patch dropout": encoder.patch_drop_rate > 0,
            windows: all(block.attn.use_mask_unit_attn for block in blocks),
        }
        return [reason for reason, applies in unsupported.items() if applies]

    @torch.no_grad()
    def initialize(self, encoder: Hiera) -> None:
        """Xavier-uniform linear layers; learned positions, drawn as in timm.

        Layer scales, of which the paper has none, keep timm's values.
        """
        initialize_linears(encoder)
        projection = encoder.patch_embed.proj
        assert isinstance(projection, nn.Conv2d)
        initialize_projection(projection)
        for positions in (encoder.pos_embed, encoder.pos_embed_win):
            if positions is not None:
                nn.init.trunc_normal_(positions, std=0.02)

    def forward_visible(
        self,
        encoder: Hiera,
        visible: Float[Tensor, "b k pixels"],
        ids_keep: Int[Tensor, "b k"],
    ) -> list[Float[Tensor, "b _ _"]]:
        """Tokens after each stage in timm's order, [token of the unit, unit]; the last by patches.

        The projection sees zeros in place of hidden units, since its kernels overlap.
        """
        shape, per_unit = self.shape(encoder), unit_tokens(encoder)
        canvas = visible.new_zeros(len(visible), shape.num_patches, visible.shape[2])
        canvas = canvas.scatter(1, ids_keep[:, :, None].expand_as(visible), visible)
        tokens = encoder.patch_embed(unpatchify(canvas, shape.img_size, shape.patch_size))
        tokens = encoder.unroll(encoder._pos_embed(tokens))
        by_unit = tokens.unflatten(1, (-1, shape.num_patches // per_unit))
        ids = unit_of(encoder, ids_keep[:, ::per_unit])[:, None, :, None]
        tokens = by_unit.gather(2, ids.expand(-1, by_unit.shape[1], -1, by_unit.shape[3]))
        tokens = tokens.flatten(1, 2)
        features = []
        for number, block in enumerate(encoder.blocks):
            tokens = checkpoint(block, tokens) if encoder.grad_checkpointing else block(tokens)
            if number in encoder.stage_ends:
                features.append(tokens)
        return [*features[:-1], by_patches(features[-1], per_unit)]

    def unit_size(self, encoder: Hiera) -> tuple[int, int]:
        """Height and width in pixels of a mask unit."""
        (p, q), (rows, columns) = encoder.patch_stride, encoder.mask_unit_size
        return p * rows, q * columns

    def mask_units(self, encoder: Hiera) -> Int[Tensor, "units patches"]:
        """Patches of each mask unit, in timm's order."""
        order = self.by_rows(encoder).argsort()
        return order.view(unit_tokens(encoder), -1).T.contiguous()

    def build_fusion(self, encoder: Hiera) -> nn.Module:
        """Sum of the stages that are followed by a lower resolution, and the last one."""
        pools, unit = encoder.q_pool, math.prod(encoder.mask_unit_size)
        counts = [unit // 4**number // unit_tokens(encoder) for number in range(pools)]
        return Fusion(counts, stage_widths(encoder)[:pools], self.shape(encoder).embed_dim)

    def fuse(
        self, encoder: Hiera, fusion: nn.Module, features: Sequence[Float[Tensor, "b _ _"]]
    ) -> Float[Tensor, "b k d"]:
        """Sum of the stages, normalised by the norm of timm's classifier."""
        *stages, last = features
        others = [by_patches(one, unit_tokens(encoder)) for one in fusion(stages[: encoder.q_pool])]
        return encoder.head.norm(last + sum(others))

    def split(
        self, encoder: Hiera, tokens: Float[Tensor, "b t d"]
    ) -> tuple[dict[str, Float[Tensor, "b d"]], Float[Tensor, "b n d"]]:
        """Tokens of `forward_features` → (norm of their mean, as in timm; normalised tokens)."""
        return {"mean": encoder.head.norm(tokens.mean(dim=1))}, self.ordered(encoder, tokens)

    def by_rows(self, encoder: Hiera) -> Int[Tensor, " patches"]:
        """Numbers of the patches, by rows, in timm's order: [token of the unit, unit]."""
        numbers = torch.arange(self.shape(encoder).num_patches).view(1, -1, 1)
        return encoder.reroll(numbers, len(encoder.blocks) - 1).flatten()

    def ordered(self, encoder: Hiera, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Tokens of `forward_features` by rows, normalised by the norm of timm's classifier."""
        by_rows = encoder.reroll(tokens, len(encoder.blocks) - 1).flatten(1, 2)
        return encoder.head.norm(by_rows)

    def maps(
        self,
        encoder: Hiera,
        images: Float[Tensor, "b c h w"],
        layers: Sequence[int],
        *,
        norm: bool = False,
    ) -> list[Float[Tensor, "b d gh gw"]]:
        """Tokens after the blocks `layers` as maps, coarser from stage to stage.

        `norm` normalises those of the last stage, for which the norm was trained.
        """
        found: Any = encoder.forward_intermediates(
            images, indices=list(layers), intermediates_only=True, coarse=False
        )
        width = self.shape(encoder).embed_dim
        return [
            encoder.head.norm(one.movedim(1, 3)).movedim(3, 1)
            if norm and one.shape[1] == width
            else one
            for one in found
        ]

    def map_stride(self, encoder: Hiera, layer: int) -> tuple[int, int]:
        """Height and width in pixels of a position of the map after block `layer` (from 0)."""
        return pixels_per_token(encoder, layer)

    def truncate(self, encoder: Hiera, depth: int) -> None:
        """Remove, in place, the blocks above the first `depth`, and the final norm."""
        encoder.prune_intermediate_layers([depth - 1], coarse=False)

    def pooling(self, encoder: Hiera) -> str:
        """Pooling of tokens to one vector by its name in timm: avg; "" for none."""
        return encoder.head.pool_type

    def resize(self, encoder: Hiera, img_size: tuple[int, int]) -> None:
        """Take images of another size, in place: positions of tokens are interpolated.

        Positions of windows are repeated and those of the image interpolated in each pass, as in
        timm.
        """
        old = self.position_grid(encoder)
        strides, pools = encoder.patch_stride, len(encoder.stage_ends) - 1
        q_strides = [encoder.q_stride] * pools
        rows, columns = (side // stride for side, stride in zip(img_size, strides, strict=True))
        encoder.tokens_spatial_shape = [rows, columns]
        units = zip((rows, columns), encoder.mask_unit_size, strict=True)
        encoder.mask_spatial_shape = [side // unit for side, unit in units]
        encoder.unroll = Unroll(img_size, strides, q_strides)
        encoder.reroll = Reroll(img_size, strides, q_strides, encoder.stage_ends, encoder.q_pool)
        positions = encoder.pos_embed
        if positions is not None and encoder.pos_embed_win is None:
            resized = resample_abs_pos_embed(positions.detach(), [rows, columns], list(old), 0)
            encoder.pos_embed = nn.Parameter(resized, positions.requires_grad)

    def position_grid(self, encoder: Hiera) -> tuple[int, int]:
        """Rows and columns of the tokens of the first stage."""
        rows, columns = encoder.tokens_spatial_shape
        return rows, columns

    def undecayed(self, encoder: Hiera) -> set[str]:
        """Positions, those of windows among them."""
        return {"pos_embed", "pos_embed_win"}

    def released_names(self, encoder: Hiera, tensors: Mapping[str, Tensor]) -> NamedWeights:
        """Weights of Hiera's release and of transformers' models under timm's names."""
        return to_timm_names(tensors, stage_depths(encoder))

    def beyond_tensors(self, encoder: Hiera) -> dict[str, Any]:
        """Blocks whose attention stays within mask units.

        Not the number of steps in resolution: the release pretrains with two and fine-tunes with
        three.
        """
        blocks: list[Any] = list(encoder.blocks)
        within = [n for n, block in enumerate(blocks) if block.attn.use_mask_unit_attn]
        return {"list of blocks with attention within mask units": within}

    def timm_arguments(self, encoder: Hiera) -> dict[str, Any]:
        """Image size, channels, strides and kernels of the projection, mask units."""
        projection: Any = encoder.patch_embed.proj
        return {
            "img_size": list(self.shape(encoder).img_size),
            "in_chans": encoder.in_chans,
            "q_pool": encoder.q_pool,
            "mask_unit_size": list(encoder.mask_unit_size),
            "patch_stride": list(encoder.patch_stride),
            "patch_kernel": list(projection.kernel_size),
            "patch_padding": list(projection.padding),
        }
