"""Encoder: an unmodified timm VisionTransformer, run on the visible patches only."""

import difflib
from collections.abc import Iterable
from contextlib import suppress

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import PatchEmbed
from timm.models import checkpoint
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.networks.patches import gather_tokens

NEAREST = 8
"""number of similar names that are tried for a suggestion"""


def build_encoder(
    name: str,
    *,
    img_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_chans: int = 3,
    **kwargs,
) -> VisionTransformer:
    """`timm.create_model(name)` without a classifier; `kwargs` are passed on to timm.

    Raises UserError as `create_vit` does, or for an architecture other than the plain ViT (see
    `refuse_unsupported`).
    """
    # Without pooling timm applies the final norm to the tokens; `mae export` sets the pooling.
    vit = create_vit(
        name,
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=0,
        global_pool="",
        **kwargs,
    )
    return check_sizes(refuse_unsupported(vit, name))


def create_vit(
    name: str, *, img_size: tuple[int, int] | None, patch_size: int | None, **kwargs
) -> VisionTransformer:
    """`timm.create_model(name)`; UserError for an unknown name or arguments that timm refuses."""
    known = set(timm.list_models())
    if name.split(".")[0] not in known:
        raise UserError(f"model.encoder: timm has no model {name!r}{_suggestion(name, known)}")
    sizes = {"img_size": img_size, "patch_size": patch_size}
    kwargs |= {key: size for key, size in sizes.items() if size is not None}
    try:
        vit = timm.create_model(name, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"model: timm cannot build {name} with {kwargs}: {error}") from None
    if type(vit) is not VisionTransformer:
        raise UserError(
            f"model.encoder: {name} is a {type(vit).__name__}; "
            "only timm's plain VisionTransformer can skip hidden patches (vit_*_patch*)"
        )
    return vit


def timm_encoder(model: nn.Module) -> VisionTransformer | None:
    """`model.encoder` if it is timm's VisionTransformer, else None."""
    encoder = getattr(model, "encoder", None)
    return encoder if isinstance(encoder, VisionTransformer) else None


def check_sizes(vit: VisionTransformer) -> VisionTransformer:
    """`vit`; UserError unless the patch size divides the image, and 4 divides the width."""
    (h, w), (p, q) = vit.patch_embed.img_size, vit.patch_embed.patch_size
    if h % p or w % q:
        raise UserError(f"data.img_size: {h} x {w} does not divide into patches of {p} x {q}")
    if vit.embed_dim % 4:
        raise UserError(f"model.encoder: a width of {vit.embed_dim} must divide by 4")
    return vit


def refuse_unsupported(vit: VisionTransformer, name: str) -> VisionTransformer:
    """`vit`; UserError unless its patches can be embedded independently of each other."""
    unsupported = {
        "a convolutional stem": type(vit.patch_embed) is not PatchEmbed,
        "no absolute position embedding": vit.pos_embed is None,
        "dynamic image size": vit.dynamic_img_size,
        "patch dropout": not isinstance(vit.patch_drop, nn.Identity),
        "a norm after the pooling": not isinstance(vit.fc_norm, nn.Identity),
    }
    if found := [reason for reason, applies in unsupported.items() if applies]:
        raise UserError(f"model.encoder: {name} is not supported: it has {', '.join(found)}")
    return vit


@torch.no_grad()
def initialize_encoder(vit: VisionTransformer) -> None:
    """Initialise as in the paper (appendix A.1): Xavier-uniform, fixed sine-cosine positions.

    Tokens are normal with a standard deviation of 0.02, as in the released code.
    """
    initialize_linears(vit)
    patch_projection = vit.patch_embed.proj
    nn.init.xavier_uniform_(patch_projection.weight.view(patch_projection.out_channels, -1))
    if patch_projection.bias is not None:
        nn.init.zeros_(patch_projection.bias)
    for token in (vit.cls_token, vit.reg_token):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = position_embedding(vit)
    positions.copy_(sincos_positions(vit.embed_dim, vit.patch_embed.grid_size, prefix))
    positions.requires_grad_(False)


def initialize_linears(module: nn.Module) -> None:
    """Initialise linear layers Xavier-uniform with zero bias, LayerNorms with weight 1, bias 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def forward_visible(
    vit: VisionTransformer, visible: Float[Tensor, "b k pixels"], ids_keep: Int[Tensor, "b k"]
) -> list[Float[Tensor, "b tokens d"]]:
    """`vit.forward_features` for the visible patches only: tokens after each block.

    Tokens are [prefix tokens, the patches of `ids_keep`]; those of the last block are normalised by
    `vit.norm`.  `visible` holds the normalised pixels of those patches in `patchify`'s layout.
    """
    b = visible.shape[0]
    projection = vit.patch_embed.proj
    # A convolution whose stride equals its kernel is a linear map of each patch; patches are
    # channels last.  Two flat views keep the gradient contiguous, as DDP requires.
    by_channel = projection.weight.flatten(1).unflatten(1, (projection.in_channels, -1))
    weight = by_channel.transpose(1, 2).flatten(1)
    tokens = vit.patch_embed.norm(F.linear(visible, weight, projection.bias))

    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = position_embedding(vit)
    tokens = tokens + gather_tokens(positions[:, prefix:].expand(b, -1, -1), ids_keep)
    first: list[Tensor] = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
    if first:
        prefix_tokens = torch.cat(first, dim=1)
        if prefix:
            prefix_tokens = prefix_tokens + positions[:, :prefix]
        tokens = torch.cat([prefix_tokens.expand(b, -1, -1).to(tokens.dtype), tokens], dim=1)

    tokens = vit.norm_pre(vit.pos_drop(tokens))
    features = []
    for block in vit.blocks:
        tokens = checkpoint(block, tokens) if vit.grad_checkpointing else block(tokens)
        features.append(tokens)
    return [*features[:-1], vit.norm(tokens)]


def position_embedding(vit: VisionTransformer) -> nn.Parameter:
    """The position embedding, which exists in every ViT that passed `refuse_unsupported`."""
    assert vit.pos_embed is not None
    return vit.pos_embed


def sincos_positions(
    dim: int, grid_size: tuple[int, int], num_prefix_tokens: int = 0
) -> Float[Tensor, "1 tokens dim"]:
    """Sine-cosine position embeddings [1, prefix + rows·columns, dim].

    The first half of the width codes the column, as in the released MAE weights, the second the
    row.  Each half is the one-dimensional code of "Attention is all you need" (section 3.5), sines
    first.  Prefix tokens (class token, registers) are zero.  Raises ValueError where `dim` is not a
    multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {dim}")
    rows, columns = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in grid_size), indexing="ij"
    )
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    code = torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1)
    prefix = torch.zeros(num_prefix_tokens, dim, dtype=torch.float64)
    return torch.cat([prefix, code])[None].float()


def _suggestion(name: str, known: set[str]) -> str:
    """Nearest name of a model that can be the encoder."""
    for close in difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.5):
        with torch.device("meta"), suppress(Exception):  # whatever timm raises: not that one
            build_encoder(close)
            return f", did you mean {close}?"
    return ""


STEM = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre")
"""parts of a timm ViT below its blocks"""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups of the trainable parameters: with weight decay (see `is_decayed`) and without.

    Frozen parameters, such as fixed position embeddings, are in no group.
    """
    decayed, undecayed = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if is_decayed(parameter) else undecayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]


def set_apart(
    groups: list[dict], parameters: Iterable[nn.Parameter], **settings: float
) -> list[dict]:
    """Groups in which `parameters` are apart, with `settings` of their own, such as `lr_scale`."""
    chosen = {id(parameter) for parameter in parameters}
    found = []
    for group in groups:
        others = [one for one in group["params"] if id(one) not in chosen]
        own = [one for one in group["params"] if id(one) in chosen]
        found += [{**group, "params": others}, {**group, **settings, "params": own}]
    return [group for group in found if group["params"]]


def layer_groups(vit: VisionTransformer, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups with layer-wise learning rates: layer_decay^(n - i) of the head's in block i of n.

    Bao et al. 2022 (BEiT); He et al. 2021, table 9.  Tokens, positions and patch projection lie
    below block 0, norm and head above the last block.  timm's own grouping puts the final norm of
    a token-pooled model into the last block, unlike the published recipe.
    """
    depth = len(vit.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in vit.named_parameters():
        if parameter.requires_grad:
            place = layer_of(name, depth), is_decayed(parameter)
            groups.setdefault(place, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (depth + 1 - layer),
        }
        for (layer, decays), parameters in groups.items()
    ]


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter of a timm ViT: 0 below the blocks, i + 1 in block i, depth + 1 above."""
    first, _, rest = name.partition(".")
    if first == "blocks":
        return int(rest.partition(".")[0]) + 1
    return 0 if first in STEM else depth + 1


def is_decayed(parameter: nn.Parameter) -> bool:
    """True for weight matrices; False for one-dimensional parameters and tokens [1, k, d].

    One-dimensional are biases, norms and layer scales: decay would only pull these to zero.
    """
    return parameter.ndim >= 2 and not (parameter.ndim == 3 and parameter.shape[0] == 1)
