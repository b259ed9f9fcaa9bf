"""Does the loader leak?  Memory of all its processes over very many samples."""

import os
from typing import NamedTuple

import psutil

from mae.config.sections import Config
from mae.data.batch import BatchSharding
from mae.data.training_data import open_training_data

READINGS = 20


class Reading(NamedTuple):
    """Memory after so many samples."""

    samples: int
    training_mb: float
    """resident in the training process"""
    workers_mb: float
    """unshared memory of its data workers, all of them"""


def soak(config: Config, img_size: int, samples: int) -> list[Reading]:
    """Draw `samples` samples as training does, and read the memory now and then.

    The first reading is taken when a twentieth has been seen, so that all is warm.
    """
    config, data = open_training_data(config)
    sharding = BatchSharding(config.train.batch_size, 1, 0, 1)
    steps = max(READINGS, samples // sharding.batch_size)
    readings = []
    stream = data.batches(config, sharding, (img_size, img_size), 0, steps)
    for step, batch in enumerate(stream, start=1):
        assert len(batch.samples) == sharding.batch_size
        if step % (steps // READINGS) == 0:
            readings.append(_read(step * sharding.batch_size))
    return readings


def table(readings: list[Reading]) -> str:
    """The readings for people."""
    lines = ["samples      training process      data workers"]
    lines += [
        f"{r.samples:>9,}{r.training_mb:>16,.1f} MB{r.workers_mb:>15,.1f} MB" for r in readings
    ]
    return "\n".join(lines)


def _read(samples: int) -> Reading:
    own = psutil.Process(os.getpid())
    workers = sum(child.memory_full_info().uss for child in own.children())
    return Reading(samples, own.memory_info().rss / 1e6, workers / 1e6)
