"""Work before a training that one process of the launch does for all."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

from mae.base.device import prepare_gpus
from mae.base.errors import UserError

T = TypeVar("T")


def from_first_process(work: Callable[[], T], timeout: timedelta) -> T:
    """Result of `work`, which the first process of the launch alone calls, in all of them.

    The process group is that of the training, which goes on with it; `timeout` is its, too.  Raises
    the UserError of `work` in all processes.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return work()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    has_gpu = torch.cuda.is_available()
    if has_gpu:
        prepare_gpus()
    state = PartialState(cpu=not has_gpu, timeout=timeout)
    answer: list[Any] = [None, ""]
    own_error = None
    if state.is_main_process:
        try:
            answer[0] = work()
        except UserError as error:
            own_error, answer[1] = error, str(error)
    broadcast_object_list(answer)
    if own_error is not None:
        raise own_error
    if answer[1]:
        raise UserError(answer[1])
    return cast(T, answer[0])
