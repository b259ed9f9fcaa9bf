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
from torch.optim import Optimizer

from mae.errors import UserError
from mae.objective import Objective

OUTSIDE_OF_FORWARD = ("encode", "reconstruct")
"""methods of an objective that use its weights, but are not `forward`"""


def refuse_first_version() -> None:
    """UserError where the launcher asks for FSDP 1, whose weights have no names of their own."""
    is_asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if is_asked and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP 1: use fsdp_version: 2 (launch/fsdp2.yaml)")


def prepare(
    objective: Objective, optimizer: Optimizer, accelerator: Accelerator
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """`accelerator.prepare`: objective and optimizer as one process, DDP or FSDP2 has them.

    A sharded objective is changed in place, and all processes must then call its methods together.
    """
    if accelerator.is_fsdp2:
        assert accelerator.state.fsdp_plugin is not None
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        # accelerate does so for all models but these.
        objective.forward = accelerator.autocast()(objective.forward)
    model, optimizer = accelerator.prepare(objective, optimizer)
    if accelerator.is_fsdp2:
        for method in OUTSIDE_OF_FORWARD:
            if hasattr(objective, method):
                register_fsdp_forward_method(objective, method)
    return model, optimizer
