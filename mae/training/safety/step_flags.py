"""Flags that the processes combine after every step, so that all of them act alike."""

from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from mae.base.errors import ProcessFailed


class StepFlags(NamedTuple):
    """Requests of one process after a step; after the reduction, of any process."""

    stop: bool = False
    """a stop signal was received"""
    save: bool = False
    """a checkpoint is due by train.checkpoint_minutes"""
    failed: bool = False
    """a checkpoint could not be written"""


class StepFlagReducer:
    """Logical OR of `StepFlags` over processes: one small all-reduce per step on the CPU."""

    def __init__(self, timeout: timedelta) -> None:
        """`timeout`: longest wait for the other processes in a step."""
        self.timeout = timeout
        self.group: dist.ProcessGroup | None = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            # A separate gloo group, which also detects soon that a process has exited.
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)
            self.group = group

    def reduce(self, own: StepFlags) -> StepFlags:
        """Combine the flags of all processes.  All processes call it after every step.

        Raises ProcessFailed where another process does not call it within the timeout.
        """
        if self.group is None:
            return own
        flags = torch.tensor(own, dtype=torch.uint8)
        try:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        except RuntimeError as error:
            if "Timed out" not in str(error):  # it has exited, and reports the reason itself
                raise
            raise ProcessFailed(
                f"another process has not answered for {self.timeout.total_seconds():g} s "
                "(train.timeout_minutes): it is stalled or busy; "
                "the same command continues from the last checkpoint"
            ) from error
        return StepFlags(*map(bool, flags.tolist()))
