"""Fair timing: everything in turn, round by round, so that a busy machine is busy for all."""

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

PACKAGES = ("torch", "torchvision", "timm", "webdataset", "pillow", "simplejpeg", "numpy")

Name = TypeVar("Name")


def interleaved(
    tasks: Mapping[Name, Callable[[], float]],
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, list[float]]:
    """Seconds of each task in each round: A B C, A B C, …, after a round that does not count.

    A task does one round of its work and returns the seconds that count.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            taken = task()
            if number:
                seconds[name].append(taken)
        progress(number + 1, rounds + 1)
    return seconds


def ratios(reference: Sequence[float], own: Sequence[float]) -> list[float]:
    """How many times faster than the reference, round by round."""
    return [a / b for a, b in zip(reference, own, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one core, and afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, object]:
    """What the numbers are of: processor, cores, GPU, versions, date."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
