"""Endless streams of bytes and of batches from the training loader."""

from collections.abc import Generator

import numpy as np
from torch import Tensor

from mae.config.sections import DataConfig
from mae.data.batch import Batch, BatchSharding, Crops, EncodedCrops
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.data.shard_reader import ShardReader
from mae.data.training_data import build_order
from mae.data.views import build_training_views
from mae.data.worker_loader import load_in_workers

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
) -> Generator[Batch[Tensor | Crops | EncodedCrops]]:
    """Batches of the training loader, forever; not decoded with decode_on_device."""
    order = our_order(manifest, batch_size, config)
    views = build_training_views(manifest, order, config, size, channels=3)
    positions = BatchSharding(batch_size, 1, 0, 1).micro_batches(0, FOREVER)
    yield from load_in_workers(views, positions, workers)
