"""The tensors of a checkpoint, and their copy on the CPU.

The step loop waits for the copy, never for the disk.  A model that is sharded over processes
(FSDP2) gives whole tensors under the same names, so its checkpoints are those of one process.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mae.base.hashing import GAMMA
from mae.base.tensor_hashing import mix_tensor
from mae.training.checkpoint.average import Average, local

AVERAGE = "average."
"""begins the names of averaged weights among a checkpoint's"""

GROUP = "param_groups/"
"""instead of a parameter's name: what the optimizer keeps for a group of them"""

GROUP_STATE = "step"
"""the only entry of a group that is state (LAMB, Adan); the others are settings"""

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
"""Python's numbers, and what holds them exactly"""


class Tensors(NamedTuple):
    """What a checkpoint holds, by file."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """`kind/parameter name` → tensor; of Python's numbers `kind:int/parameter name` → tensor []"""

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensors, also where this process has only shards."""
        every = [*self.model.values(), *self.optimizer.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in every)


def tensors_of(model: nn.Module, optimizer: Optimizer, average: Average | None = None) -> Tensors:
    """The live tensors: whole ones, or this process's view of sharded ones.

    They come in one order on all processes, which `Snapshots.take` collects them in.
    """
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if average is not None:
        averages = {f"{AVERAGE}{name}": tensor for name, tensor in average.tensors().items()}
        assert not weights.keys() & averages.keys()
        weights |= averages
    moments = {
        key: tensor
        for name, parameter in model.named_parameters()
        for kind, value in sorted(optimizer.state.get(parameter, {}).items())
        for key, tensor in _entry(kind, name, value)
    }
    for number, group in enumerate(optimizer.param_groups):
        if GROUP_STATE in group:
            moments |= _entry(GROUP_STATE, f"{GROUP}{number}", group[GROUP_STATE])
    return Tensors(weights, moments)


def _entry(kind: str, name: str, value: object) -> list[tuple[str, Tensor]]:
    """A value of the optimizer as it is saved; none of what is neither tensor nor number."""
    if isinstance(value, Tensor):
        return [(f"{kind}/{name}", value.detach())]
    for python, dtype in NUMBERS.items():
        if type(value) is python:
            return [(f"{kind}:{python.__name__}/{name}", torch.tensor(value, dtype=dtype))]
    return []


def is_sharded(model: nn.Module) -> bool:
    """No single process holds all of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def are_finite(model: nn.Module) -> bool:
    """All weights and buffers that this process holds are; waits for the device once."""
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    return bool(torch.stack([local(one).isfinite().all() for one in tensors]).all())


@torch.no_grad()
def buffer_checksums(model: nn.Module) -> dict[str, int]:
    """A number for each buffer, of its bits and their places; waits for the device once."""
    buffers = {name: local(buffer) for name, buffer in model.named_buffers()}
    sums = [_checksum(buffer) for buffer in buffers.values()]
    return dict(zip(buffers, torch.stack(sums).tolist() if sums else [], strict=True))


def _checksum(tensor: Tensor) -> Tensor:
    """int64 [] on the tensor's device; the same for the same bits in the same order."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    size = tensor.element_size()
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    words = tensor.contiguous().flatten().view(bits).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=tensor.device) * (GAMMA - (1 << 64))
    return mix_tensor(mix_tensor(places) ^ words).sum()


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
