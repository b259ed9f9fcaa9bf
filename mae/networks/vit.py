"""Encoder: an unmodified module of timm's, run on the visible patches only; parameter groups.

Classes of encoders are in `mae.networks.encoders`.
"""

import difflib
from collections.abc import Iterable
from contextlib import suppress

import timm
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mae.base.errors import UserError
from mae.networks.encoders.contract import EncoderShape
from mae.networks.encoders.registry import (
    CREATION,
    TimmEncoder,
    adapter_named,
    adapter_of,
    is_encoder,
    refuse_by_name,
    supported,
    usual_arguments,
)

NEAREST = 8
"""number of similar names that are tried for a suggestion"""


def build_encoder(
    name: str,
    *,
    img_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_chans: int = 3,
    **kwargs,
) -> TimmEncoder:
    """`timm.create_model(name)` without a classifier; `kwargs` are passed on to timm.

    Raises UserError as `create_vit` does, or for an architecture whose patches cannot be left out
    (see `refuse_unsupported`).
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
) -> TimmEncoder:
    """`timm.create_model(name)`, of a supported class.

    UserError for an unknown name, arguments that timm refuses, or another class.
    """
    known = set(timm.list_models())
    if name.split(".")[0] not in known:
        raise UserError(f"model.encoder: timm has no model {name!r}{_suggestion(name, known)}")
    adapter = adapter_named(name)
    arguments = adapter.size_arguments(patch_size, kwargs, name) if adapter else {}
    arguments |= kwargs | ({} if img_size is None else {"img_size": img_size})
    arguments |= usual_arguments(name, arguments)
    try:
        vit = timm.create_model(name, **arguments)
    except CREATION as error:
        refuse_by_name(name)
        raise UserError(f"model: timm cannot build {name} with {arguments}: {error}") from None
    vit = supported(vit, name)
    shape = encoder_shape(vit)
    if patch_size not in (None, (side := shape.patch_size[0])):
        raise UserError(
            f"model.patch_size: {patch_size}, but model.encoder_kwargs make patches of {side} px"
        )
    if img_size is not None and img_size != shape.img_size:
        raise does_not_divide(img_size, vit)
    return vit


def timm_encoder(model: nn.Module) -> TimmEncoder | None:
    """`model.encoder` if it is of a supported class of timm's, else None."""
    encoder = getattr(model, "encoder", None)
    return encoder if is_encoder(encoder) else None


def encoder_shape(encoder: nn.Module) -> EncoderShape:
    """Sizes of an encoder."""
    return adapter_of(encoder).shape(encoder)


def check_sizes(vit: TimmEncoder) -> TimmEncoder:
    """`vit`; UserError unless the patch size divides the image, and 4 divides the width."""
    shape, unit = encoder_shape(vit), adapter_of(vit).unit_size(vit)
    if any(side % part for side, part in zip(shape.img_size, unit, strict=True)):
        raise does_not_divide(shape.img_size, vit)
    if shape.embed_dim % 4:
        raise UserError(f"model.encoder: a width of {shape.embed_dim} must divide by 4")
    return vit


def does_not_divide(
    img_size: tuple[int, int], vit: TimmEncoder, key: str = "data.img_size"
) -> UserError:
    """Error of the setting `key`: images that do not divide into patches, or mask units."""
    shape, unit = encoder_shape(vit), adapter_of(vit).unit_size(vit)
    what = "patches" if unit == shape.patch_size else "mask units"
    (h, w), (p, q) = img_size, unit
    return UserError(f"{key}: {h} x {w} does not divide into {what} of {p} x {q} px")


def refuse_unsupported(vit: TimmEncoder, name: str) -> TimmEncoder:
    """`vit`; UserError unless its patches can be embedded independently of each other."""
    if found := adapter_of(vit).refusals(vit):
        raise UserError(f"model.encoder: {name} is not supported: it has {', '.join(found)}")
    return vit


def initialize_encoder(vit: nn.Module) -> None:
    """Initialise as in the paper (appendix A.1): Xavier-uniform, fixed sine-cosine positions.

    Tokens are normal with a standard deviation of 0.02, as in the released code.
    """
    adapter_of(vit).initialize(vit)


def forward_visible(
    vit: nn.Module, visible: Float[Tensor, "b k pixels"], ids_keep: Int[Tensor, "b k"]
) -> list[Float[Tensor, "b _ _"]]:
    """`vit.forward_features` for the visible patches only: tokens after each block.

    Tokens are [prefix tokens, the patches of `ids_keep`]; those of the last block are normalised.
    `visible` holds the normalised pixels of those patches in `patchify`'s layout.
    """
    return adapter_of(vit).forward_visible(vit, visible, ids_keep)


def _suggestion(name: str, known: set[str]) -> str:
    """Nearest name of a model that can be the encoder."""
    for close in difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.5):
        with torch.device("meta"), suppress(Exception):  # whatever timm raises: not that one
            build_encoder(close)
            return f", did you mean {close}?"
    return ""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups of the trainable parameters: with weight decay (see `is_decayed`) and without.

    Frozen parameters, such as fixed position embeddings, are in no group.
    """
    exempt = exempt_parameters(model)
    decayed, undecayed = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = is_decayed(parameter) and id(parameter) not in exempt
            (decayed if decays else undecayed).append(parameter)
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


def layer_groups(vit: nn.Module, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups with layer-wise learning rates: layer_decay^(n - i) of the head's in block i of n.

    Bao et al. 2022 (BEiT); He et al. 2021, table 9.  Tokens, positions and patch projection lie
    below block 0, norm and head above the last block.  timm's own grouping puts the final norm of
    a token-pooled model into the last block, unlike the published recipe.
    """
    adapter, exempt = adapter_of(vit), exempt_parameters(vit)
    depth = len(adapter.blocks(vit))
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in vit.named_parameters():
        if parameter.requires_grad:
            decays = is_decayed(parameter) and id(parameter) not in exempt
            groups.setdefault((adapter.layer_of(vit, name), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (depth + 1 - layer),
        }
        for (layer, decays), parameters in groups.items()
    ]


def exempt_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that encoders of timm's in `model` exempt from weight decay.

    Among them are the frequencies of rotary positions, which decay would pull to one direction.
    """
    found = set()
    for part in model.modules():
        if is_encoder(part):
            exempt = adapter_of(part).undecayed(part)
            found |= {id(one) for name, one in part.named_parameters() if name in exempt}
    return found


def is_decayed(parameter: nn.Parameter) -> bool:
    """True for weight matrices; False for one-dimensional parameters and tokens [1, k, d].

    One-dimensional are biases, norms and layer scales: decay would only pull these to zero.
    """
    return parameter.ndim >= 2 and not (parameter.ndim == 3 and parameter.shape[0] == 1)
