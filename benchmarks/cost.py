"""What a step costs on any machine: operations, memory held for the backward pass, traffic.

Counted, not timed: the same numbers on every run, however busy the machine.
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
    """Of forward and backward, in eager mode."""

    flops: int
    """of matrix products; a multiply-add counts as two"""
    saved_bytes: int
    """held from the forward for the backward pass, parameters left out"""
    traffic_bytes: int
    """arguments and results of all operations: what bounds all but matrix products on a GPU"""
    operations: int
    """calls that compute something: kernels that a GPU is given, about"""


def cost_of(loss: Callable[[], Tensor], model: nn.Module) -> Cost:
    """Of one call of `loss` and its backward pass; the gradients of `model` are dropped."""
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
    """Counts operations that touch memory, and the bytes of their arguments and results."""

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
    """Its result is its argument's memory, not written to."""
    returned = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)
