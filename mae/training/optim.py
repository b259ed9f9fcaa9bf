"""Optimizers by name, and one step of them: gradients measured, clipped, skipped if not finite.

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
from mae.networks.parameter_groups import is_decayed
from mae.training.checkpoint.average import local

COUNTS_SKIPPED = frozenset("adabelief adan adanw lamb lambc lambcw lambw radabelief".split())
"""optimizers that count steps on the host: the count, which their correction of the moments' bias
follows, goes on where a step is skipped; weights and moments stay"""


def build_optimizer(groups: list[dict], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer `config.name` of these parameter groups; `set_lr` sets its learning rate.

    Groups keep their own `weight_decay` and `lr_scale`; parameters are on their device by now.
    What `config` does not name is as timm has it, Adan's three betas too.  The momentum of those
    that have only one (SGD, LARS, RMSprop) is `config.betas[0]`.
    """
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
    known = timm.optim.get_optimizer_info(config.name)
    options: dict = {"eps": config.eps}
    if known.num_betas == 2:  # Adan has three: its own
        options["betas"] = config.betas
    accepted = inspect.signature(timm.optim.get_optimizer_class(config.name)).parameters
    if config.name == "adam":
        options["fused"] = True
    elif "capturable" in accepted and _is_on_gpu(groups):
        options["capturable"] = True  # counts steps on the device, where a step can be taken back
    if "trust_coeff" in accepted:
        groups = [{**group, "always_adapt": _adapts(group)} for group in groups]
        options["eps"] = 0.0  # zero lengths are seen to; any other would only blur the ratio
    return timm.optim.create_optimizer_v2(
        groups,
        config.name,
        lr=0.0,
        momentum=config.betas[0],
        filter_bias_and_bn=False,
        **options,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of all groups; some take a share of it, their `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def num_moments(config: OptimConfig) -> int:
    """Tensors of a parameter's size that the optimizer keeps for it."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer([{"params": [parameter], "weight_decay": 0.0}], config)
    optimizer.step()
    kept = optimizer.state[parameter].values()
    return sum(isinstance(one, torch.Tensor) and one.shape == parameter.shape for one in kept)


def _is_on_gpu(groups: list[dict]) -> bool:
    return any(parameter.is_cuda for group in groups for parameter in group["params"])


def _adapts(group: dict) -> bool:
    """LARS scales whole groups: those of matrices.

    Vectors (biases, norms) and tokens are scaled no more than they are decayed.
    """
    return all(is_decayed(parameter) for parameter in group["params"])


class Taken(NamedTuple):
    """A step that was made or skipped; both are on the device."""

    grad_norm: Tensor
    """before clipping"""
    skipped: Tensor
    """bool []: the norm is not finite"""


@torch.no_grad()
def take_step(optimizer: Optimizer | AcceleratedOptimizer, clip_grad: float) -> Taken:
    """Make a step of gradients no longer than `clip_grad` (0: of any length), then drop them.

    Where the norm is not finite, weights and the optimizer's state stay bit for bit as they are;
    what the first step would have created is all zeros then.  Only counts of steps that an
    optimizer keeps on the host go on (`COUNTS_SKIPPED` in `mae.training.optim`).  Data-parallel
    gradients are the same everywhere, so all processes skip, or none.
    """
    bare = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    gradients = [p.grad for g in bare.param_groups for p in g["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    skipped = ~norm.isfinite()
    if clip_grad > 0:
        # As torch.nn.utils.clip_grads_with_norm_, which takes no plain norm of sharded gradients.
        factor = torch.clamp(clip_grad / (norm + 1e-6), max=1.0)
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
    if _looks_at_found_inf(bare):
        # What a gradient scaler would set, were there one.
        bare.found_inf = skipped.float()  # pyrefly: ignore
        optimizer.step()
        bare.found_inf = None  # pyrefly: ignore
    else:
        before = {key: tensor.clone() for key, tensor in _tensors(bare)}
        optimizer.step()
        for key, tensor in _tensors(bare):
            old = before.get(key)
            # Created by this step: taken back to what optimizers begin with.
            old = torch.zeros_like(tensor) if old is None else old
            tensor.copy_(torch.where(skipped, old, tensor))
    optimizer.zero_grad(set_to_none=True)
    return Taken(norm, skipped)


def _looks_at_found_inf(optimizer: Optimizer) -> bool:
    """Only torch's fused Adam: its fused SGD leaves a first momentum that it skips undefined."""
    is_fused = all(group.get("fused") for group in optimizer.param_groups)
    return is_fused and isinstance(optimizer, Adam | AdamW)


def _tensors(optimizer: Optimizer) -> Iterator[tuple[tuple[Tensor, str], Tensor]]:
    """Parameters with a gradient and their state on the same device, by parameter and kind."""
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
    """Linear scaling rule (Goyal et al. 2017): `blr` is given per 256 images of a step."""
    return blr * batch_size / 256


def lr_at(epoch: float, *, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """Linear warm-up from 0, then half a cosine to `min_lr` (paper, appendix A.1).

    `epoch` is fractional: samples seen so far over samples in the data set.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = min(1.0, (epoch - warmup_epochs) / (epochs - warmup_epochs))
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
