"""The most that a device does: its fastest large matrix product, timed where the steps are."""

import time
from collections.abc import Callable, Sequence

import torch

SIZES = {"cuda": (4096, 8192, 12288, 16384), "cpu": (1024, 1536, 2048)}
"""sides of the square matrices that are tried; larger ones are no faster"""


class Ceiling:
    """Multiplies square matrices of the size that is fastest of `sizes`."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, sizes: Sequence[int] | None = None
    ) -> None:
        self.device, self.dtype = device, dtype
        sizes = sizes or SIZES.get(device.type, SIZES["cpu"])
        rates = {}
        for size in sizes:
            self._use(size)
            rates[size] = self.measure(0.1)
        self._use(max(rates, key=rates.__getitem__))

    def measure(self, seconds: float) -> float:
        """Operations per second (a multiply-add counts as two), over about so many seconds."""
        timed(self._product, 1, self.device)
        one = timed(self._product, 1, self.device)
        count = max(1, round(seconds / one))
        return 2 * self.size**3 / timed(self._product, count, self.device)

    def _use(self, size: int) -> None:
        self.size = size
        self.a, self.b, self.c = (
            torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(3)
        )

    def _product(self) -> None:
        torch.mm(self.a, self.b, out=self.c)


def timed(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds of each of `count` calls, one behind the other, until the device is done."""
    start = now(device)
    for _ in range(count):
        work()
    return (now(device) - start) / count


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
