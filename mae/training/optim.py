"""Optimizers, the optimizer step with clipping and skipping, and the learning-rate schedule.

The optimizers are torch's AdamW and those of timm whose runs resume bit for bit.  Nothing here
waits for the device.
"""

import inspect
import math
from collections.abc import Iterator
from typing import NamedTuple

import timm.optim
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Adam, AdamW, Optimizer

from mae.config.sections import OptimConfig
from mae.networks.vit import is_decayed
from mae.training.checkpoint.average import local

COUNTS_SKIPPED = frozenset("adabelief adan adanw lamb lambc lambcw lambw radabelief".split())
"""optimizers that count steps on the host: a skipped step still increments the count, on which
their bias correction of the moments depends; weights and moments stay unchanged"""


def build_optimizer(groups: list[dict], config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer `config.name` for these parameter groups; lr 0 until `set_lr`.

    Groups keep their own `weight_decay` and `lr_scale`; their parameters must be on the device
    already.  What `config` does not set has timm's default, as do Adan's three betas.  Optimizers
    with a single momentum (SGD, LARS, RMSprop) use `config.betas[0]`.
    """
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
    known = timm.optim.get_optimizer_info(config.name)
    options: dict = {"eps": config.eps}
    if known.num_betas == 2:  # Adan has three and keeps its defaults
        options["betas"] = config.betas
    accepted = inspect.signature(timm.optim.get_optimizer_class(config.name)).parameters
    if config.name == "adam":
        options["fused"] = True
    elif "capturable" in accepted and _is_on_gpu(groups):
        options["capturable"] = True  # counts steps on the device, where a step can be undone
    if "trust_coeff" in accepted:
        groups = [{**group, "always_adapt": _adapts(group)} for group in groups]
        options["eps"] = 0.0  # norms of zero are handled; eps would only distort the trust ratio
    return timm.optim.create_optimizer_v2(
        groups,
        config.name,
        lr=0.0,
        momentum=config.betas[0],
        filter_bias_and_bn=False,
        **options,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its `lr_scale` (default 1)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def num_moments(config: OptimConfig) -> int:
    """Number of tensors of a parameter's shape that the optimizer stores for it."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer([{"params": [parameter], "weight_decay": 0.0}], config)
    optimizer.step()
    kept = optimizer.state[parameter].values()
    return sum(isinstance(one, torch.Tensor) and one.shape == parameter.shape for one in kept)


def _is_on_gpu(groups: list[dict]) -> bool:
    return any(parameter.is_cuda for group in groups for parameter in group["params"])


def _adapts(group: dict) -> bool:
    """True where LARS applies its trust ratio to this group, as to all groups of matrices.

    Vectors (biases, norms) and tokens are neither scaled nor decayed.
    """
    return all(is_decayed(parameter) for parameter in group["params"])


class OptimizerStep(NamedTuple):
    """Result of an optimizer step, on the device."""

    grad_norm: Tensor
    """float []: norm of all gradients before clipping"""
    skipped: Tensor
    """bool []: nothing was updated, as the norm is not finite"""


@torch.no_grad()
def take_step(optimizer: Optimizer | AcceleratedOptimizer, clip_grad: float) -> OptimizerStep:
    """Clip the gradients to the norm `clip_grad` (0: no clipping), step, and clear them.

    Where the norm is not finite the step is skipped: weights and optimizer state stay bit for bit
    the same, and state that this step created is zero.  Only step counts on the host increase
    (`COUNTS_SKIPPED`).  Data-parallel gradients are equal on all processes, so all of them skip,
    or none.
    """
    bare = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    gradients = [p.grad for g in bare.param_groups for p in g["params"] if p.grad is not None]
    norm = total_norm(gradients)
    skipped = ~norm.isfinite()
    if clip_grad > 0:
        # As torch.nn.utils.clip_grads_with_norm_, which rejects a plain norm of sharded gradients.
        factor = torch.clamp(clip_grad / (norm + 1e-6), max=1.0)
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
    if _supports_found_inf(bare):
        # The flag that a gradient scaler would set: the fused kernel then skips the step.
        bare.found_inf = skipped.float()  # pyrefly: ignore
        optimizer.step()
        bare.found_inf = None  # pyrefly: ignore
    else:
        before = {key: tensor.clone() for key, tensor in _tensors(bare)}
        optimizer.step()
        for key, tensor in _tensors(bare):
            old = before.get(key)
            # Created by this step: reset to the zeros that optimizers start from.
            old = torch.zeros_like(tensor) if old is None else old
            tensor.copy_(torch.where(skipped, old, tensor))
    optimizer.zero_grad(set_to_none=True)
    return OptimizerStep(norm, skipped)


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Norm of all gradients, float [], as `torch.nn.utils.get_total_norm` computes it.

    That function sorts the tensors by device and dtype first, which on small networks takes longer
    than their norms.
    """
    if len({(one.dtype, one.device, type(one)) for one in gradients}) == 1 and not isinstance(
        gradients[0], DTensor
    ):
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _supports_found_inf(optimizer: Optimizer) -> bool:
    """True for torch's fused Adam only: fused SGD leaves a skipped first momentum undefined."""
    is_fused = all(group.get("fused") for group in optimizer.param_groups)
    return is_fused and isinstance(optimizer, Adam | AdamW)


def _tensors(optimizer: Optimizer) -> Iterator[tuple[tuple[Tensor, str], Tensor]]:
    """Parameters with a gradient and their state on the device, keyed by parameter and kind."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            own = local(parameter.detach())
            yield (parameter, ""), own
            for kind, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.device == parameter.device:
                    yield (parameter, kind), local(value)


def scaled_lr(blr: float, batch_size: int) -> float:
    """Peak learning rate by the linear scaling rule (Goyal et al. 2017): blr * batch_size / 256."""
    return blr * batch_size / 256


def lr_at(epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Learning rate: linear warm-up from 0 to `lr`, then half a cosine to `min_lr`.

    As in the paper, appendix A.1.  `epoch` is fractional: samples seen over samples in the data
    set.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = min(1.0, (epoch - warmup_epochs) / (epochs - warmup_epochs))
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
