"""Memory of the loader over many samples, to find leaks: `python -m benchmarks.soak`."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from mae.base.exit_status import exit_code
from mae.base.files import write_json
from mae.commands.argument_types import positive
from mae.commands.bench.command import shards_options
from mae.config.sections import Config
from mae.data.batch import BatchSharding
from mae.data.training_data import open_training_data

READINGS = 20


class Reading(NamedTuple):
    """Memory after a number of samples."""

    samples: int
    training_mb: float
    """resident memory of the training process"""
    workers_mb: float
    """unshared memory of its data workers, summed"""


def soak(config: Config, img_size: int, samples: int) -> list[Reading]:
    """Load `samples` samples as training does; READINGS readings at equal distances.

    The first reading is taken after 1/READINGS of the samples, when all is warmed up.
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


def soak_table(readings: list[Reading]) -> str:
    """Plain-text table of the readings."""
    lines = ["samples      training process      data workers"]
    lines += [
        f"{r.samples:>9,}{r.training_mb:>16,.1f} MB{r.workers_mb:>15,.1f} MB" for r in readings
    ]
    return "\n".join(lines)


def _read(samples: int) -> Reading:
    own = psutil.Process(os.getpid())
    workers = sum(child.memory_full_info().uss for child in own.children())
    return Reading(samples, own.memory_info().rss / 1e6, workers / 1e6)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    shards_options(parser)
    parser.add_argument(
        "--samples", type=positive, default=200_000, help="number of samples to load"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        workers = 1 if args.workers is None else args.workers
        data = {"train": tuple(args.shards), "workers": workers, "repeats": 1}
        config = Config.model_validate({"data": data, "train": {"batch_size": args.batch_size}})
        readings = soak(config, args.img_size, args.samples)
        print(soak_table(readings))
        if args.out:
            write_json(args.out, {"readings": [reading._asdict() for reading in readings]})

    return exit_code(work, "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
