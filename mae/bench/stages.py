"""Time of each part of our pipeline, measured in place, batch by batch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from mae.bench.stream import our_batches
from mae.config.sections import DataConfig
from mae.data import images, views
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader


class Stages(NamedTuple):
    """Seconds of a batch."""

    whole: float
    reading: float
    decoding: float
    resizing: float

    @property
    def rest(self) -> float:
        """All but decoding and resizing: what the engine costs."""
        return self.whole - self.decoding - self.resizing


class StagedBatches:
    """`our_batches` in this process, with a clock around reading, decoding and resizing."""

    def __init__(self, manifest: Manifest, size: tuple[int, int], batch_size: int) -> None:
        self.stream = our_batches(manifest, size, batch_size, 0, DataConfig())

    def next_batch(self) -> Stages:
        """Make the next batch."""
        with (
            _timed(ShardReader, "read") as reading,
            _timed(images, "decode") as decoding,
            _timed(views, "apply_view_into") as resizing,
        ):
            start = time.perf_counter()
            next(self.stream)
            whole = time.perf_counter() - start
        return Stages(whole, reading[0], decoding[0], resizing[0])


@contextmanager
def _timed(owner: Any, name: str) -> Iterator[list[float]]:
    """The seconds spent in a function of `owner`, in the one element of a list."""
    spent = [0.0]
    function: Callable = getattr(owner, name)

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[0] += time.perf_counter() - start

    with patch.object(owner, name, timed):
        yield spent
