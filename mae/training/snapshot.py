"""The tensors of a checkpoint, and their copy on the CPU.

The step loop waits for the copy, never for the disk.  A model that is sharded over processes
(FSDP2) gives whole tensors under the same names, so its checkpoints are those of one process.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


class Tensors(NamedTuple):
    """What a checkpoint holds, by file."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """`kind/parameter name` → tensor"""

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensors, also where this process has only shards."""
        every = [*self.model.values(), *self.optimizer.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in every)


def tensors_of(model: nn.Module, optimizer: Optimizer) -> Tensors:
    """The live tensors: whole ones, or this process's view of sharded ones.

    They come in one order on all processes, which `Snapshots.take` collects them in.
    """
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    moments = {
        f"{kind}/{name}": value.detach()
        for name, parameter in model.named_parameters()
        for kind, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor)
    }
    return Tensors(weights, moments)


def is_sharded(model: nn.Module) -> bool:
    """No single process holds all of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def are_finite(model: nn.Module) -> bool:
    """All weights that this process holds are; waits for the device once."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return bool(torch.stack([part.isfinite().all() for part in local]).all())


def shard_like(whole: Tensor, own: Tensor | None) -> Tensor:
    """This process's part of `whole`, as `own` is laid out; every process has all of `whole`."""
    if not isinstance(own, DTensor):
        return whole
    whole = whole.to(own.device)
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)


class Snapshots:
    """Copies to the CPU, each into the memory of the one before.

    Memory is taken once: as much as a checkpoint has bytes, page-locked where the tensors are on
    a GPU (such memory is slow to get, and copies to no other go on by themselves).
    """

    def __init__(self) -> None:
        self.copies = Tensors({}, {})

    def take(self, tensors: Tensors, is_kept: bool) -> Tensors:
        """Whole tensors on the CPU; only where `is_kept`, else nothing is copied.

        All processes call it where tensors are sharded: each of these is put together on all of
        them, one at a time.  The copy must not be in use any more (being written).
        """
        devices = set()
        for name in Tensors._fields:
            copies: dict[str, Tensor] = getattr(self.copies, name)
            live: dict[str, Tensor] = getattr(tensors, name)
            for key in copies.keys() - live.keys():
                del copies[key]
            for key, tensor in live.items():
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                if is_kept:
                    copies[key] = _memory_for(whole, copies.get(key))
                    copies[key].copy_(whole, non_blocking=True)
                    devices.add(whole.device)
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return self.copies


def _memory_for(tensor: Tensor, used: Tensor | None) -> Tensor:
    if used is not None and used.shape == tensor.shape and used.dtype == tensor.dtype:
        return used
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
