"""The machine: compute device, usable CPU cores, and memory kept between steps.

A step on a CPU allocates and frees the same hundreds of megabytes each time.  The C library gives
them back to the system, which clears them before it lends them again: 1 to 6 % of a step's work
(BENCHMARKS.md).
"""

import ctypes
import os
from typing import TYPE_CHECKING

from mae.base.errors import UserError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> str:
    """`auto` is a GPU where there is one; UserError where torch does not know the device."""
    import torch  # here: who counts cores needs none

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def usable_cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Names and numbers of glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
LARGEST_KEPT = 2**25
"""bytes of a block, and glibc's limit; larger ones go back to the system when they are freed"""


def keep_freed_memory(device: "torch.device") -> bool:
    """Let this process keep what it frees, if it computes on a CPU, with glibc; else False."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type != "cpu" or mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER))
