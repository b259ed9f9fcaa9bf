"""A run that waits for its data says so, and what would help."""

from collections.abc import Iterator

import torch

from mae.base.device import usable_cores
from mae.config.sections import Config, DataConfig
from mae.objectives.registry import declaration
from mae.training.plan import local_processes
from mae.training.tracking import Clock

WAITING = 0.1
"""share of the time from which on it is worth a word"""
SURE_AFTER = 60.0
"""seconds of steps; the first interval, in which workers start, does not count"""


def ways_to_feed(
    data: DataConfig,
    processes: int,
    cores: int,
    has_gpu: bool,
    has_labels: bool = False,
    channels: int = 3,
) -> Iterator[str]:
    """Settings that would bring the data faster, the harmless ones first.

    `processes`: those that train on this machine, of `cores` processors.  `has_labels`: a
    classifier's, whose crops are augmented on the CPU, a new one from each image.  All but the
    number of workers makes another run.
    """
    if data.workers * processes < cores:
        yield f"data.workers={cores // processes} (there are {cores} cores)"
    if has_gpu and not (data.crop_on_device or data.decode_on_device or has_labels):
        yield "data.crop_on_device=true"
    jpegs = data.bits == 8 and channels in (1, 3)
    if has_gpu and jpegs and not (data.decode_on_device or has_labels):
        yield "data.decode_on_device=true (for JPEGs)"
    yield "mae pack --resize"
    if data.repeats == 1 and not has_labels:
        yield "data.repeats=2"


def ways_of_run(config: Config, device: torch.device) -> str:
    """The same for a run on this machine and `device`, with commas between them."""
    ways = ways_to_feed(
        config.data,
        local_processes(),
        usable_cores(),
        has_gpu=device.type == "cuda",
        has_labels=declaration(config.objective).augmentation(config, (1, 1)) is not None,
        channels=config.data.in_chans,
    )
    return ", ".join(ways)


class Advice:
    """Asked at every report; has something to say once, if at all."""

    def __init__(self, ways: str) -> None:
        """`ways`: what would help."""
        self.ways = ways
        self.is_first, self.is_told = True, False
        self.waited = self.elapsed = 0.0

    def __call__(self, clock: Clock) -> str | None:
        """What to say after the interval of `clock`."""
        if self.is_first or self.is_told:
            self.is_first = False
            return None
        self.waited += clock.waited
        self.elapsed += clock.elapsed
        share = self.waited / self.elapsed
        if self.elapsed < SURE_AFTER or share < WAITING:
            return None
        self.is_told = True
        return (
            f"data    waited for {share:.0%} of the time ({1 / (1 - share):.1f} times as fast "
            f"without). What would help: {self.ways}; all but data.workers makes another run"
        )
