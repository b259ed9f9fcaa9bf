"""Measuring process of one case: `python -m mae.commands.bench.child JSON BUILDER`.

In a process of its own, a case has its own peak memory and its own compiled code.  Requests and
answers are lines: each line on standard input is the approximate length of a round in seconds, each
line on standard output a JSON object, the result of the round.  So the parent process can measure
many cases in turn.
"""

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import psutil
import torch

from mae.base.device import synchronized_time
from mae.base.errors import UserError
from mae.commands.bench.cases import Case
from mae.commands.bench.timing import seconds_per_call

BUILDER = "mae.commands.bench.training_step"
"""module whose `build_step(case)` builds our step"""
CEILING = "ceiling"
"""key of the request for matrix products instead of a case"""
OUT_OF_MEMORY = "out of memory"
WARM_UP = 3
"""steps: the first compiles, the second allocates, the third records CUDA graphs"""
SIZES = {"cuda": (4096, 8192, 12288, 16384), "cpu": (1024, 1536, 2048)}
"""sides of the square matrices to choose from; larger ones are no faster"""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Round = Callable[[float], dict]
"""measures for about that many seconds; returns the result"""


def main() -> None:
    """Serve the case on the command line.

    Libraries' prints are redirected to standard error, so that all answers are JSON.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(json.loads(sys.argv[1]), sys.stdin, answers, *sys.argv[2:])


def serve(task: dict, requests: TextIO, answers: TextIO, builder: str = BUILDER) -> None:
    """Build and warm up `task`, answer that it is ready, then answer each request.

    `task`: a case as a dictionary, or {CEILING: matrix sizes or None, "precision": …}.  `builder`:
    module whose `build_step` builds the step.  A UserError, or missing memory, is an answer
    {"error": …} and the end.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def answer(content: dict) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        if CEILING in task:
            one_round = ceiling_rounds(task, device)
        else:
            one_round = case_rounds(task, device, builder)
        answer({"ready": True})
        for line in requests:
            answer(one_round(float(line)))
    except UserError as error:
        answer({"error": str(error)})
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        answer({"error": OUT_OF_MEMORY})


def case_rounds(task: dict, device: torch.device, builder: str) -> Round:
    """Warmed-up rounds of training steps; the first step of each round is not counted."""
    memory = PeakMemory(device)
    # Imported only now: an implementation's libraries count as its memory.
    step = importlib.import_module(builder).build_step(Case(**task))
    for _ in range(WARM_UP):
        step()
    memory.restart()
    one = seconds_per_call(step, 1, device)

    def one_round(seconds: float) -> dict:
        nonlocal one
        step()
        count = max(1, round(seconds / one))
        synchronized_time(device)
        cpu = time.process_time()
        one = seconds_per_call(step, count, device)
        cpu = (time.process_time() - cpu) / count
        peak = memory.read()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # for the other processes
        return {"seconds": one, "cpu_seconds": cpu, "steps": count, "memory": peak}

    return one_round


def ceiling_rounds(task: dict, device: torch.device) -> Round:
    """Rounds of matrix products in the precision of the cases."""
    is_half = device.type == "cuda" and task["precision"] != "fp32"
    use_bf16 = is_half or task["precision"] == "bf16"
    ceiling = Ceiling(device, torch.bfloat16 if use_bf16 else torch.float32, task[CEILING])
    return lambda seconds: {"flops": ceiling.measure(seconds), "size": ceiling.size}


class Ceiling:
    """The device's peak rate, taken from its fastest large matrix product."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, sizes: Sequence[int] | None = None
    ) -> None:
        """Choose the fastest of `sizes`, sides of square matrices (default: SIZES)."""
        self.device, self.dtype = device, dtype
        sizes = sizes or SIZES.get(device.type, SIZES["cpu"])
        rates = {}
        for size in sizes:
            self._allocate(size)
            rates[size] = self.measure(0.1)
        self._allocate(max(rates, key=rates.__getitem__))

    def measure(self, seconds: float) -> float:
        """FLOP/s over about `seconds`; a multiply-add counts as two."""
        seconds_per_call(self._product, 1, self.device)
        one = seconds_per_call(self._product, 1, self.device)
        count = max(1, round(seconds / one))
        return 2 * self.size**3 / seconds_per_call(self._product, count, self.device)

    def _allocate(self, size: int) -> None:
        self.size = size
        self.a, self.b, self.c = (
            torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(3)
        )

    def _product(self) -> None:
        torch.mm(self.a, self.b, out=self.c)


class PeakMemory:
    """Peak memory of this process since it was built.

    On a GPU: peak of the allocated bytes.  On a CPU: peak of the resident bytes above those at the
    start (the libraries'); only on Linux, where a process can reset its own peak.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = psutil.Process().memory_info().rss

    def restart(self) -> None:
        """Reset the peak, for example after warm-up and compilation."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR.exists():
            CLEAR.write_text("5")

    def read(self) -> int | None:
        """Peak in bytes since `restart`; None where it is unknown."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not CLEAR.exists():
            return None
        match = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        return int(match[1]) * 1024 - self.before if match else None


if __name__ == "__main__":
    main()
