"""Compute device of a process, its share of the CPU cores, malloc settings on a CPU."""

import ctypes
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mae.base.errors import UserError

if TYPE_CHECKING:
    import torch

# Names and values of glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
LARGEST_KEPT = 2**25
"""bytes, glibc's maximum; larger blocks are returned to the system when freed"""
ADAPTED = 2 * LARGEST_KEPT
"""bytes at the end of the heap that glibc keeps, at most, where it adapts itself"""
_is_freed_memory_kept = False
"""True from `keep_freed_memory`, where it changed malloc's settings, to `return_freed_memory`"""
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""a container's CPU limit, two numbers of microseconds: `QUOTA PERIOD`, or `max PERIOD`"""
MOST_LOADERS = 32
"""maximum number of data workers by default: each holds two batches in shared memory"""


def choose_device(name: str) -> str:
    """Resolve a device name; `auto` is a GPU where one is available, else `cpu`.

    Among several processes of a launcher `auto` and `cuda` are the GPU of this process,
    `cuda:LOCAL_RANK`.  Raises UserError where torch cannot use the device, or there are fewer GPUs
    than processes.
    """
    import torch  # here: what counts cores must stay light to import

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        if name not in ("cuda", own):
            raise UserError(
                f"--device {name}: each process of a launch has a GPU of its own: use --device "
                "cuda, and CUDA_VISIBLE_DEVICES to choose among them"
            )
        check_gpus(local_processes())
        name = own
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def check_gpus(processes: int) -> None:
    """Raise UserError where there are GPUs, but fewer than `processes` of this machine."""
    import torch

    count = torch.cuda.device_count()
    if 0 < count < processes:
        raise UserError(
            f"{processes} processes for {count} GPU{'s' * (count > 1)}: start at most {count} "
            "(--processes, or the launcher's --num_processes), or set CUDA_VISIBLE_DEVICES= to "
            "use the CPU"
        )


def prepare_gpus() -> None:
    """Prepare this process to train on a GPU, beside the others of its launch.

    NCCL's direct transfers are turned off between GPUs that lack them (RTX 40 with drivers before
    550.40), as accelerate's launcher does; accelerate refuses to start otherwise.  Raises UserError
    as `check_gpus` does.
    """
    check_gpus(local_processes())
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from accelerate.utils import check_cuda_p2p_ib_support

        if not check_cuda_p2p_ib_support():
            for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
                os.environ.setdefault(name, "1")


def idle_gpus() -> str:
    """Line on GPUs of this machine that a command on GPUs leaves idle; "" where there are none.

    Only the first process of a machine gets one.  CUDA_VISIBLE_DEVICES hides GPUs.
    """
    import torch

    used, count = local_processes(), torch.cuda.device_count()
    if used >= count or os.environ.get("LOCAL_RANK", "0") != "0":
        return ""
    return f"{used} of {count} GPUs are used: --processes {count} uses all"


def local_processes() -> int:
    """Number of processes that the launcher started on this machine.

    Slurm's srun, which torch can use as a launcher, sets a variable of its own.
    """
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    if not count and os.environ.get("WORLD_SIZE", "1") != "1":
        count = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    return int(count) if count.isdecimal() else 1


def synchronized_time(device: "torch.device") -> float:
    """Time in seconds, after `device` has finished all work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def usable_cores() -> int:
    """Number of CPU cores that this process may use: CPU affinity, and a container's limit."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroup v2, or no limit
        quota, period = map(int, CPU_LIMIT.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return cores


def worker_count(asked: int | None) -> int:
    """`asked`; None: this process's share of the usable cores, at least 1."""
    return max(1, usable_cores() // local_processes()) if asked is None else asked


def loader_count(asked: int | None) -> int:
    """`worker_count` of data workers, by default at most MOST_LOADERS."""
    return min(worker_count(None), MOST_LOADERS) if asked is None else asked


def keep_freed_memory(device: "torch.device") -> bool:
    """Make malloc keep freed memory in this process instead of returning it to the system.

    A step on a CPU allocates and frees the same hundreds of megabytes each time; the system
    clears returned pages before it hands them out again, 1 to 6 % of a step's time
    (BENCHMARKS.md).  Returns False, and changes nothing, on other devices and without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type != "cpu" or mallopt is None:
        return False
    global _is_freed_memory_kept
    is_set = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER)
    _is_freed_memory_kept |= bool(is_set)
    return bool(is_set)


def return_freed_memory() -> None:
    """Return freed memory to the system, now and from here on: undoes `keep_freed_memory`.

    Does nothing where that changed nothing, since any setting ends malloc's own adaptation.  The
    settings cannot be read.  These are the ones that malloc comes to by itself where blocks of 32
    MB are freed, as in any computation on a CPU.
    """
    global _is_freed_memory_kept
    if not _is_freed_memory_kept:
        return
    _is_freed_memory_kept = False
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, ADAPTED)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
