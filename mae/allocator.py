"""Main memory kept for the next step.

A step on a CPU takes and frees the same hundreds of megabytes each time.  The C library gives
them back to the system, which clears them before it lends them again: 2 to 6 % of a step's work
(BENCHMARKS.md).
"""

import ctypes

import torch

LARGEST_KEPT = 2**30
"""bytes of a block; larger ones go back to the system"""

# Names and numbers of glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = 2**31 - 1


def keep_freed_memory(device: torch.device) -> bool:
    """Let this process keep what it frees, if it computes on a CPU, with glibc; else False."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type != "cpu" or mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER))
