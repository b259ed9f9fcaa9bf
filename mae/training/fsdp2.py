"""What differs where the launcher asks for sharded weights (FSDP2): see launch/fsdp2.yaml.

The arithmetic is DDP's, so that a run may change between the two: weights are gathered as they
are, and autocast decides what is computed in bf16.  accelerate would compute everything in bf16,
the loss and the sum of the gradients as well.
"""

import os

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mae.base.errors import UserError
from mae.objectives.base import CAPABILITIES, Objective


def refuse_fsdp1() -> None:
    """UserError where the launcher asks for FSDP 1, whose weights have no names of their own."""
    is_asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if is_asked and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP 1: use fsdp_version: 2 (launch/fsdp2.yaml)")


def prepare(
    objective: Objective, optimizer: Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """`accelerator.prepare`: objective and optimizer as one process, DDP or FSDP2 has them.

    A sharded objective is changed in place, and all processes must then call its methods together.
    Buffers are the first process's at the start; then each process changes its own (all alike).
    """
    if accelerator.is_fsdp2:
        plugin = accelerator.state.fsdp_plugin
        assert plugin is not None
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
        # The launcher's file names classes of several objectives; accelerate wants all of them.
        own = {type(part).__name__ for part in objective.modules()}
        wrapped = plugin.transformer_cls_names_to_wrap or []
        plugin.transformer_cls_names_to_wrap = [name for name in wrapped if name in own]
        # accelerate does so for all models but these.
        objective.forward = accelerator.autocast()(objective.forward)
    model, optimizer = accelerator.prepare(objective, optimizer)
    if isinstance(model, DistributedDataParallel):
        _leave_buffers(model)
    if accelerator.is_fsdp2:
        for method in CAPABILITIES:
            if hasattr(objective, method):
                register_fsdp_forward_method(objective, method)
    return model, optimizer


def _leave_buffers(model: DistributedDataParallel) -> None:
    """No more broadcasts of the first process's buffers before every forward pass.

    Set here, since as an argument torch 2.15 warns of the one name, and older ones lack the other.
    """
    name = "forward_sync_buffers" if hasattr(model, "forward_sync_buffers") else "broadcast_buffers"
    setattr(model, name, False)
