"""Tensors of a checkpoint, and their copy on the CPU.

The training loop waits for the copy, never for the disk.  Shards of an FSDP2 model are gathered to
whole tensors under the same names, so its checkpoints equal those of one process.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mae.base.hashing import GAMMA
from mae.base.tensor_hashing import mix_tensor
from mae.training.checkpoint.average import MovingAverage, local

AVERAGE = "average."
"""prefix of the names of averaged weights in a checkpoint"""

GROUP = "param_groups/"
"""prefix, in place of a parameter's name, of optimizer state of a parameter group"""

GROUP_STATE = "step"
"""the only entry of a parameter group that is state (LAMB, Adan); the others are settings"""

NUMBER_TYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}
"""Python type of a number → dtype that stores it exactly"""


class CheckpointTensors(NamedTuple):
    """Tensors of a checkpoint, by file."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """`kind/parameter name` → tensor; for Python numbers `kind:int/parameter name` → tensor []"""

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole tensors, even if this process has only shards."""
        every = [*self.model.values(), *self.optimizer.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in every)


def checkpoint_tensors(
    model: nn.Module, optimizer: Optimizer, average: MovingAverage | None = None
) -> CheckpointTensors:
    """Collect the live tensors of a checkpoint: whole ones, or this process's shards.

    Their order is the same on all processes, as the gathering in `Snapshots.take` needs.
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
    return CheckpointTensors(weights, moments)


def _entry(kind: str, name: str, value: object) -> list[tuple[str, Tensor]]:
    """Optimizer value as saved; empty where it is neither a tensor nor a number."""
    if isinstance(value, Tensor):
        return [(f"{kind}/{name}", value.detach())]
    for python, dtype in NUMBER_TYPES.items():
        if type(value) is python:
            return [(f"{kind}:{python.__name__}/{name}", torch.tensor(value, dtype=dtype))]
    return []


def is_sharded(model: nn.Module) -> bool:
    """True where weights are sharded over processes (FSDP2)."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def are_finite(model: nn.Module) -> bool:
    """True where all weights and buffers of this process are finite; waits for the device once."""
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    return bool(torch.stack([local(one).isfinite().all() for one in tensors]).all())


@torch.no_grad()
def buffer_checksums(model: nn.Module) -> dict[str, int]:
    """Compute an int64 checksum of each buffer, by name; waits for the device once."""
    buffers = {name: local(buffer) for name, buffer in model.named_buffers()}
    sums = [_checksum(buffer) for buffer in buffers.values()]
    return dict(zip(buffers, torch.stack(sums).tolist() if sums else [], strict=True))


def _checksum(tensor: Tensor) -> Tensor:
    """Checksum of the bits and their positions: int64 [] on the tensor's device."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    size = tensor.element_size()
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    words = tensor.contiguous().flatten().view(bits).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=tensor.device) * (GAMMA - (1 << 64))
    return mix_tensor(mix_tensor(places) ^ words).sum()


def shard_like(whole: Tensor, own: Tensor | None) -> Tensor:
    """Shard `whole`, which every process has, as `own` is sharded; unchanged if it is not."""
    if not isinstance(own, DTensor):
        return whole
    whole = whole.to(own.device)
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)


class Snapshots:
    """Copies of tensors on the CPU, in memory that is reused from copy to copy.

    The memory, of the size of a checkpoint, is allocated once: page-locked for tensors on a GPU,
    since only copies to page-locked memory are asynchronous, and allocating it is slow.
    """

    def __init__(self) -> None:
        self.copies = CheckpointTensors({}, {})

    def take(self, tensors: CheckpointTensors, is_kept: bool) -> CheckpointTensors:
        """Copy the tensors, gathering shards; where not `is_kept`, only take part in gathering.

        All processes call it if tensors are sharded: these are gathered on all processes, one at
        a time.  The previous copy is overwritten, so it must not be being written to disk.
        """
        devices = set()
        for name in CheckpointTensors._fields:
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
