"""Counted cost of a step: FLOP, memory saved for the backward pass, memory traffic, operations.

Counted instead of timed, so that the numbers do not depend on the machine and its load.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Cost of forward and backward pass in eager mode."""

    flops: int
    """FLOP of matrix products; a multiply-add counts as two"""
    saved_bytes: int
    """tensors saved by the forward for the backward pass, without parameters"""
    traffic_bytes: int
    """arguments and results of all operations: the bottleneck of all but products on a GPU"""
    operations: int
    """calls that compute something, about the number of kernels on a GPU"""


def cost_of(loss: Callable[[], Tensor], model: nn.Module) -> Cost:
    """Count one call of `loss` and its backward pass; gradients of `model` are reset."""
    model.zero_grad(set_to_none=True)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss()
        value.backward()
    model.zero_grad(set_to_none=True)
    total = sum(saved.values())
    return Cost(flops.get_total_flops(), total, traffic.bytes, traffic.operations)


class _Traffic(TorchDispatchMode):
    """Counts operations that read or write memory, and bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (_is_view(func) or "empty" in func.__name__):
            self.operations += 1
            tensors = [one for one in tree_leaves((args, kwargs, result)) if torch.is_tensor(one)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _is_view(func: Any) -> bool:
    """True where the result shares the argument's memory and is not written."""
    returned = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)
