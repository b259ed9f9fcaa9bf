"""The loader of training as endless streams of bytes and of batches."""

from collections.abc import Generator

import numpy as np

from mae.config.sections import DataConfig
from mae.data.batches import batches
from mae.data.loader import Batch, BatchSharding, TrainingViews
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.data.shard_reader import ShardReader
from mae.data.training_data import build_order

SEED = 0
AT_ONCE = 1000
"""samples whose places in the order are computed together"""
FOREVER = 2**40


def our_order(manifest: Manifest, batch_size: int, config: DataConfig) -> Order:
    """The order of `our_batches`."""
    return build_order(config, manifest, SEED, batch_size)


def our_bytes(manifest: Manifest) -> Generator[bytes]:
    """Undecoded images in the order of training, checked, forever."""
    reader, order = ShardReader(manifest), our_order(manifest, AT_ONCE, DataConfig())
    for start in range(0, FOREVER, AT_ONCE):
        place = order(np.arange(start, start + AT_ONCE))
        yield from map(reader.read, place.sample.tolist())


def our_batches(
    manifest: Manifest, size: tuple[int, int], batch_size: int, workers: int, config: DataConfig
) -> Generator[Batch]:
    """Batches as training gets them, forever."""
    order = our_order(manifest, batch_size, config)
    views = TrainingViews(manifest, order, config, size, channels=3)
    yield from batches(views, BatchSharding(batch_size, 1, 0, 1).micro_batches(0, FOREVER), workers)
