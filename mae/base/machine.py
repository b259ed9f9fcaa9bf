"""Hardware of this machine, as far as settings are chosen by it."""

import os
import shutil
from typing import NamedTuple

import psutil

from mae.base.device import local_processes, usable_cores
from mae.base.peak_flops import TERA, peak_flops_of_name

UTILISATION = 0.35
"""share of a GPU's peak that a training step of a Vision Transformer uses"""
UNKNOWN_GPU = 40 * TERA
"""peak that is assumed of a GPU whose name is not known"""
CORE = 20e9
"""operations per second that a training step sustains on a CPU core"""


class Machine(NamedTuple):
    """Hardware on which a run is started, and its processes."""

    processes: int
    """processes of the run, over all machines; each has a GPU of its own, if there are any"""
    gpu: str
    """name of the GPU; empty: none"""
    gpu_memory: float
    """memory of a GPU in GB; 0: none"""
    has_bf16: bool
    """the GPU computes in bfloat16"""
    cores: int
    """CPU cores of this machine that the run may use"""
    memory: float
    """main memory in GB"""
    speed: float
    """operations per second that all processes together sustain, by estimate"""
    has_compiler: bool
    """a C compiler is there, which torch.compile needs"""
    local_processes: int = 1
    """processes on this machine"""

    def __str__(self) -> str:
        memory = f"{self.memory:.0f} GB"
        if self.has_gpu:
            count = f"{self.processes} x " * (self.processes > 1)
            return f"{count}{self.gpu}, {self.gpu_memory:.0f} GB"
        return f"{self.cores} CPU core{'s' * (self.cores > 1)}, {memory}, no GPU"

    @property
    def has_gpu(self) -> bool:
        """True where the run computes on GPUs."""
        return bool(self.gpu)


def compiler() -> str | None:
    """Path of the C compiler that torch.compile would use; None without one."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


def this_machine() -> Machine:
    """The machine that this process runs on; the processes are those of its launch."""
    import torch

    count = os.environ.get("WORLD_SIZE", "1")
    gpu, gpu_memory, has_bf16 = "", 0.0, False
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
        gpu_memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    processes = int(count) if count.isdecimal() else 1
    if gpu:
        peak = peak_flops_of_name(gpu, "bf16" if has_bf16 else "fp32") or UNKNOWN_GPU
        speed = processes * UTILISATION * peak
    else:
        speed = processes / local_processes() * CORE * usable_cores()
    return Machine(
        processes=processes,
        gpu=gpu,
        gpu_memory=gpu_memory,
        has_bf16=has_bf16,
        cores=usable_cores(),
        memory=psutil.virtual_memory().total / 1e9,
        speed=speed,
        has_compiler=compiler() is not None,
        local_processes=local_processes(),
    )
