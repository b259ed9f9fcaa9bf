"""What the processes tell each other after every step, so that all of them act alike."""

from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from mae.base.errors import ProcessFailed


class StepFlags(NamedTuple):
    """What one process wants, or, agreed, what any of them wants."""

    stop: bool = False
    """a signal asked for an end"""
    save: bool = False
    """time for a checkpoint"""
    failed: bool = False
    """a checkpoint could not be written"""


class Control:
    """One small all-reduce a step, on the CPU: it never waits for the device."""

    def __init__(self, timeout: timedelta) -> None:
        self.timeout = timeout
        self.group: dist.ProcessGroup | None = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            # A group of its own, which also tells soon when a process is gone.
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)
            self.group = group

    def agree(self, own: StepFlags) -> StepFlags:
        """True where it is true for any process.  All processes call it after every step.

        Raises ProcessFailed where another one does not come in time.
        """
        if self.group is None:
            return own
        flags = torch.tensor(own, dtype=torch.uint8)
        try:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        except RuntimeError as error:
            if "Timed out" not in str(error):  # gone, that is, and says itself why
                raise
            raise ProcessFailed(
                f"another process has not answered for {self.timeout.total_seconds():g} s "
                "(train.timeout_minutes): stalled, or busy with something else; "
                "the same command continues from the last checkpoint"
            ) from error
        return StepFlags(*map(bool, flags.tolist()))
