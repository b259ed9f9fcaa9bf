"""AdamW with the paper's parameter groups."""

import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from mae.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups of the trainable parameters: decayed matrices, and the rest undecayed.

    Biases, norms, layer scales (one dimension) and tokens (shape [1, k, d]) are not
    decayed: decay would only pull them to zero.  Fixed position embeddings are in no group.
    """
    decayed, undecayed = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_token = parameter.ndim == 3 and parameter.shape[0] == 1
            (undecayed if parameter.ndim < 2 or is_token else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]


def layer_groups(vit: VisionTransformer, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups by depth: the learning rate of block i of n is layer_decay^(n - i) of the head's.

    (Bao et al. 2022, BEiT; He et al. 2021, table 9.)  Tokens, positions and patch projection lie
    below block 0, norm and head above the last.  Biases, norms and tokens are not decayed.
    """
    undecayed = vit.no_weight_decay()
    return param_groups_layer_decay(
        vit, weight_decay, no_weight_decay_list=undecayed, layer_decay=layer_decay
    )


def build_optimizer(
    model: nn.Module, config: OptimConfig, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW; the learning rate is set before every step (`set_lr`).

    A `layer_decay` below 1 is for models all of whose trained parameters are in `model.encoder`,
    a timm ViT.
    """
    if layer_decay < 1:
        assert isinstance(model.encoder, VisionTransformer)
        groups = layer_groups(model.encoder, config.weight_decay, layer_decay)
    else:
        groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of all groups; some take a share of it, their `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
