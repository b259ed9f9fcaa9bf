"""Parameter groups of the optimizer: weight decay and layer-wise learning rates."""

from timm.models.vision_transformer import VisionTransformer
from torch import nn

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
