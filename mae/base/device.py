"""Compute device, usable CPU cores, and malloc settings for training on a CPU."""

import ctypes
import os
import time
from typing import TYPE_CHECKING

from mae.base.errors import UserError

if TYPE_CHECKING:
    import torch

# Names and values of glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
LARGEST_KEPT = 2**25
"""bytes, glibc's maximum; larger blocks are returned to the system when freed"""


def choose_device(name: str) -> str:
    """Resolve a device name; `auto` is `cuda` where a GPU is available, else `cpu`.

    Raises UserError where torch cannot use the device.
    """
    import torch  # here: usable_cores must stay light to import

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def synchronized_time(device: "torch.device") -> float:
    """Time in seconds, after `device` has finished all work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def usable_cores() -> int:
    """Number of CPU cores that this process may use (CPU affinity included)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory(device: "torch.device") -> bool:
    """Make malloc keep freed memory in this process instead of returning it to the system.

    A step on a CPU allocates and frees the same hundreds of megabytes each time; the system
    clears returned pages before it hands them out again, 1 to 6 % of a step's time
    (BENCHMARKS.md).  Returns False, and changes nothing, on other devices and without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type != "cpu" or mallopt is None:
        return False
    is_set = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER)
    return bool(is_set)
