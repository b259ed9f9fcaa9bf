"""One step of the optimizer from the gradients: measured, clipped, and skipped if not finite.

Nothing here waits for the device.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Adam, AdamW, Optimizer


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


def local(tensor: Tensor) -> Tensor:
    """This process's part, in place; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
