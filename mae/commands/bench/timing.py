"""Timing of tasks in turn, so that other load on the machine affects all of them alike."""

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

from mae.base.device import synchronized_time

PACKAGES = ("torch", "torchvision", "timm", "webdataset", "pillow", "simplejpeg", "numpy")

Name = TypeVar("Name")


def interleaved(
    tasks: Mapping[Name, Callable[[], float]],
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, list[float]]:
    """Seconds of each task in each round: A B C, A B C, …, after a warm-up round.

    A task does its work of one round and returns the seconds to count.  `progress` is called with
    the rounds done and their total, the warm-up included.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            duration = task()
            if number:
                seconds[name].append(duration)
        progress(number + 1, rounds + 1)
    return seconds


def seconds_per_call(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Mean seconds of `count` calls in a row, until the device has finished them."""
    start = synchronized_time(device)
    for _ in range(count):
        work()
    return (synchronized_time(device) - start) / count


def ratios(reference: Sequence[float], own: Sequence[float]) -> list[float]:
    """Speed relative to the reference, round by round: its seconds divided by one's own."""
    return [a / b for a, b in zip(reference, own, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread; restore their number at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, object]:
    """Machine of a measurement: processor, cores, GPU, versions of packages, date."""
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
