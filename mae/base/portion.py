"""Portion of divided work that this process does: of a launch, or of a job array."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

from mae.base.errors import PartDone, RunFailed, UserError
from mae.base.launch import check_launch
from mae.base.output import print_error, silent

T = TypeVar("T")

CONNECTING = timedelta(minutes=10)
"""time in which all processes of a launch must be there"""
PATIENCE = timedelta(days=7)
"""time that a process waits for the work of the others; the end of one ends the wait at once"""
POLL_SECONDS = 0.05
"""seconds between two looks at the other processes, at first; up to twenty times as many later"""


class Portion(NamedTuple):
    """Portion `number` of `count`, counted from 0."""

    number: int = 0
    count: int = 1
    is_task: bool = False
    """a task of a job array: it ends with its own parts, which another process joins later"""
    is_join: bool = False
    """the process that joins the parts of a job array, and has none of its own"""

    @property
    def joins(self) -> bool:
        """True in the process that joins all parts, and has the result."""
        return self.number == 0 and not self.is_task

    @property
    def reports(self) -> bool:
        """True in the process that joins, and in a task: others leave messages to the first."""
        return self.joins or self.is_task

    @property
    def log(self) -> Callable[[str], None]:
        """`print_error` in a process that reports; nothing is printed in the others."""
        return print_error if self.reports else silent

    @property
    def is_launched(self) -> bool:
        """True where the processes run side by side, started by one launcher."""
        return self.count > 1 and not self.is_task

    def own(self, parts: int) -> range:
        """Numbers of this portion's parts, neighbours: they lie in the same shards."""
        if self.is_join:
            return range(0)
        first, last = (
            -(-number * parts // self.count) for number in (self.number, self.number + 1)
        )
        return range(first, last)

    def gather(self, value: Any) -> list[Any]:
        """Values of all processes of the launch, by number; waits for all of them."""
        if not self.is_launched:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        try:
            dist.all_gather_object(values, value, group=_group())
        except RuntimeError as error:
            raise _stopped(error) from None
        return values

    def first_before_others(self, work: Callable[[], T]) -> T:
        """Result of `work`, called in the first process before the others: they find its files."""
        found = [work()] if self.joins else []
        self.meet()
        return found[0] if found else work()

    def from_first(self, work: Callable[[], T]) -> T:
        """Result of `work`, which the first process alone calls, in all of them.

        Where it raises, the first process does so, and the others raise PartDone.
        """
        if not self.is_launched:
            return work()
        import torch.distributed as dist

        error: UserError | RunFailed | None = None
        answer: list[Any] = [None, False]
        if self.joins:
            try:
                answer = [work(), True]
            except (UserError, RunFailed) as caught:
                error = caught
        try:
            dist.broadcast_object_list(answer, src=0, group=_group())
        except RuntimeError as stopped:
            raise _stopped(stopped) from None
        if error is not None:
            raise error
        if not answer[1]:
            raise PartDone("")
        return cast(T, answer[0])

    def raise_common(self, error: UserError | RunFailed | None) -> None:
        """Raise, in the first process, the `error` of the lowest process that has one.

        All processes of the launch call this together; the others raise PartDone.  So one line is
        printed, and it is that of one process, where work goes in the order of the processes.
        """
        if not self.is_launched:
            if error is not None:
                raise error
            return
        failed = [one for one in self.gather(error) if one is not None]
        if failed:
            raise failed[0] if self.joins else PartDone("")

    def meet(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Wait until all processes of the launch are here, calling `while_waiting` now and then.

        Raises RunFailed where one of them has stopped.
        """
        if not self.is_launched:
            return
        import torch.distributed as dist

        try:
            arrival: Any = dist.barrier(group=_group(), async_op=True)
            pause = POLL_SECONDS
            while not arrival.is_completed():
                time.sleep(pause)
                pause = min(1.05 * pause, 20 * POLL_SECONDS)
                while_waiting()
            arrival.wait()
        except RuntimeError as error:
            raise _stopped(error) from None

    def leave_to_first(self) -> None:
        """Raise PartDone, which ends the process, in all but the one that joins."""
        if self.is_task:
            raise PartDone(
                f"part {self.number + 1} of {self.count} is done; when all are, run the same "
                "command with --join instead of --part"
            )
        if not self.joins:
            raise PartDone("")


ALONE = Portion()
"""all of the work, in one process"""


def launched_portion(environment: Mapping[str, str] = os.environ) -> Portion:
    """Portion by the variables of a launcher; ALONE without one.

    Raises UserError where some of them are missing or no numbers.
    """
    check_launch(environment)
    count = int(environment.get("WORLD_SIZE") or "1")
    return Portion(int(environment["RANK"]), count) if count > 1 else ALONE


def leave_launch() -> None:
    """Close the connections to the other processes of the launch, where there are any."""
    if _group.cache_info().currsize:
        import torch.distributed as dist

        _group.cache_clear()
        if dist.is_initialized():
            dist.destroy_process_group()


@cache
def _group() -> Any:
    """Process group of the launch, on the CPUs: beside that of a training, which may be on GPUs."""
    import torch.distributed as dist

    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=CONNECTING)
        return dist.new_group(backend="gloo", timeout=PATIENCE)
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise RunFailed(f"the processes cannot connect at {address}: {reason}") from None


def _stopped(error: RuntimeError) -> RunFailed:
    reason = str(error).splitlines()[0]
    return RunFailed(
        f"another process of this launch has stopped, see its message (here, on "
        f"{socket.gethostname()}: {reason})"
    )
