"""Preparation of model and optimizer for one process, DDP or FSDP2 (launch/fsdp2.yaml).

The arithmetic of FSDP2 is that of DDP, so that a run may change between the two: weights are
gathered in fp32, and autocast decides what is computed in bf16.  accelerate's default would compute
everything in bf16, including the loss and the sum of the gradients.
"""

import os

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mae.base.errors import UserError
from mae.objectives.base import Objective
from mae.objectives.capabilities import CAPABILITIES
from mae.objectives.declaration import Declaration


def refuse_fsdp1() -> None:
    """Raise UserError where the launcher asks for FSDP 1, which flattens the parameters."""
    is_asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if is_asked and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP 1: use fsdp_version: 2 (launch/fsdp2.yaml)")


def refuse_unshardable(declared: Declaration) -> None:
    """Raise UserError where the launcher asks to shard an objective that is not sharded."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and not declared.shardable:
        raise UserError(
            f"objective {declared.name} fits on one GPU and is not sharded: launch it without FSDP "
            "(launch/multi_gpu.yaml)"
        )


def prepare(
    objective: Objective, optimizer: Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Wrap objective and optimizer for one process, DDP or FSDP2 (`accelerator.prepare`).

    FSDP2 shards the objective in place, and all processes must then call its methods together.
    Buffers start as those of process 0; then every process updates its own, to equal values.
    """
    if accelerator.is_fsdp2:
        plugin = accelerator.state.fsdp_plugin
        assert plugin is not None
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
        # The launch file lists classes of several objectives; accelerate requires each to occur.
        own = {type(part).__name__ for part in objective.modules()}
        wrapped = plugin.transformer_cls_names_to_wrap or []
        plugin.transformer_cls_names_to_wrap = [name for name in wrapped if name in own]
        # accelerate applies autocast to all models except FSDP2's.
        objective.forward = accelerator.autocast()(objective.forward)
    model, optimizer = accelerator.prepare(objective, optimizer)
    if isinstance(model, DistributedDataParallel):
        _disable_buffer_broadcast(model)
    if accelerator.is_fsdp2:
        for method in CAPABILITIES:
            if hasattr(objective, method):
                register_fsdp_forward_method(objective, method)
    return model, optimizer


def _disable_buffer_broadcast(model: DistributedDataParallel) -> None:
    """Turn off the broadcast of process 0's buffers before every forward pass.

    Set as an attribute: as an argument, torch 2.15 warns of one name and older versions lack the
    other.
    """
    name = "forward_sync_buffers" if hasattr(model, "forward_sync_buffers") else "broadcast_buffers"
    setattr(model, name, False)
