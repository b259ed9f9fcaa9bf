"""AdamW with the paper's parameter groups."""

import torch
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


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; the learning rate is set before every step (`set_lr`)."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
