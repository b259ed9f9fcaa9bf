"""Peak memory of this process: the device's where it counts, else what is resident."""

import re
from pathlib import Path

import psutil
import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """What a model needs, beyond what the process held when this was made.

    On a GPU: bytes allocated at most.  On a CPU: bytes resident at most, less those at the start
    (the libraries); only Linux tells, and only where a process may reset its own mark.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = psutil.Process().memory_info().rss

    def restart(self) -> None:
        """Forget what was: warming up, compiling."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR.exists():
            CLEAR.write_text("5")

    def read(self) -> int | None:
        """Bytes since `restart`, at most; None: unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not CLEAR.exists():
            return None
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        return int(found[1]) * 1024 - self.before if found else None
