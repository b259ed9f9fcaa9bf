"""Main memory kept for the next step.

A step on a CPU takes and frees the same hundreds of megabytes each time.  The C library gives
them back to the system, which clears them before it lends them again: 1 to 6 % of a step's work
(BENCHMARKS.md).
"""

import ctypes

import torch

# Names and numbers of glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
LARGEST_KEPT = 2**25
"""bytes of a block, and glibc's limit; larger ones go back to the system when they are freed"""


def keep_freed_memory(device: torch.device) -> bool:
    """Let this process keep what it frees, if it computes on a CPU, with glibc; else False."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type != "cpu" or mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER))
