"""`mae bench loader`: speed of data loading, from shards to batches, and the time of its parts."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from mae.base.errors import UserError
from mae.base.files import write_json
from mae.base.progress import ProgressLine
from mae.commands.bench.loader_table import loader_table
from mae.commands.bench.pipeline import (
    StagedBatches,
    Stages,
    copy_samples,
    our_batches,
    our_bytes,
    pixel_differences,
)
from mae.commands.bench.timing import interleaved, machine, one_thread, ratios, spread
from mae.config.sections import DataConfig
from mae.data.indexing import build_manifest
from mae.data.manifest import Manifest
from mae.storage.cache import ShardCache

READING_FACTOR = 8
"""samples of a round of reading, relative to the other rounds: it is that much faster"""

OURS = "mae"

Task = Callable[[], float]
"""does its work of one round and returns the seconds"""
Seconds = dict[tuple[str, str], list[float]]
"""seconds of each round, by group and pipeline"""


class Others(NamedTuple):
    """Other pipelines to measure, by name; the first is the reference of all ratios."""

    batches: Mapping[str, Callable[[Manifest, tuple[int, int], int, int], Generator]] = {}
    """endless batches from (shards, (height, width), batch size, workers)"""
    samples: Mapping[str, Callable[[Manifest], Iterable]] = {}
    """endless undecoded samples"""


ALONE = Others()


class Setup(NamedTuple):
    """Images, sizes and pipelines of a measurement."""

    manifest: Manifest
    short: Manifest | None
    """the same number of images, with a shorter side; None: not measured"""
    size: tuple[int, int]
    """(height, width) of the views"""
    batch_size: int
    batches: int
    """batches of a round"""
    workers: int
    repeats: int
    """views of each decoded image"""
    others: Others


def run(args: argparse.Namespace) -> None:
    """Run `mae bench loader`."""
    measure_loader(args, ALONE)


def measure_loader(args: argparse.Namespace, others: Others) -> None:
    """Measure our loader and `others`, print the table, write the result to --out."""
    quick = args.quick
    result = bench_loader(
        args.shards,
        short=args.short,
        img_size=args.img_size,
        images=64 if quick else args.images,
        batch_size=16 if quick else args.batch_size,
        rounds=2 if quick else args.rounds,
        workers=0 if quick else args.workers,
        repeats=args.repeats,
        others=others,
        progress=ProgressLine("measuring", "rounds"),
    )
    print(loader_table(result))
    if args.out:
        write_json(args.out, result)
        print(args.out)


def bench_loader(
    shards: Sequence[str],
    *,
    short: Sequence[str] = (),
    img_size: int = 224,
    images: int = 512,
    batch_size: int = 64,
    rounds: int = 7,
    workers: int | None = None,
    repeats: int = 4,
    index_dir: Path | None = None,
    cache: ShardCache | None = None,
    others: Others = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Measure our pipeline and `others` on `images` images of `shards`, in `rounds` rounds each.

    `short`: shards of the same images with a shorter side, measured too.  `workers`: data workers
    of the multi-process part (default: one for each core; 0: that part is skipped).  The result can
    be written as JSON.  Raises UserError where the shards cannot be read or hold too few images, or
    where `images` is no multiple of `batch_size`.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if images < batch_size or images % batch_size:
        raise UserError(f"bench: {images} images are no multiple of the batch of {batch_size}")
    scratch = tempfile.TemporaryDirectory(prefix="mae-bench-", ignore_cleanup_errors=True)
    with scratch as folder, one_thread():

        def copied(patterns: Sequence[str], name: str) -> Manifest:
            manifest = build_manifest(patterns, name, index_dir, cache)
            return copy_samples(manifest, images, Path(folder, name), max(4, workers), cache)

        setup = Setup(
            manifest=copied(shards, "shards"),
            short=copied(short, "--short") if short else None,
            size=(img_size, img_size),
            batch_size=batch_size,
            batches=images // batch_size,
            workers=workers,
            repeats=repeats,
            others=others,
        )
        staged = _StagedRounds(setup)
        groups = {
            "one_core": _one_core(setup, staged),
            "processes": _processes(setup) if workers else {},
            "reading": _reading(setup),
        }
        tasks = {(group, name): task for group in groups for name, task in groups[group].items()}
        seconds = interleaved(tasks, rounds, progress)
        pixels = pixel_differences(setup.manifest, setup.size)
    return {
        "machine": machine(),
        "images": images,
        "bytes_per_image": round(float(np.asarray(setup.manifest.size).mean())),
        "img_size": img_size,
        "batch_size": batch_size,
        "rounds": rounds,
        "workers": workers,
        "one_core": _rates(groups["one_core"], "one_core", seconds, images),
        "processes": _rates(groups["processes"], "processes", seconds, images * workers),
        "reading": _rates(groups["reading"], "reading", seconds, images * READING_FACTOR),
        "us_per_image": _us_per_image(staged, setup),
        "pixels": pixels,
    }


def _rates(names: Iterable[str], group: str, seconds: Seconds, images: int) -> dict[str, dict]:
    """Images per second of each pipeline, and their ratio to the first pipeline's."""
    by_name = {name: seconds[group, name] for name in names}
    return {
        name: {
            "images_per_s": spread([images / own for own in rounds]),
            "ratio": spread(ratios(next(iter(by_name.values())), rounds)),
        }
        for name, rounds in by_name.items()
    }


def _us_per_image(staged: "_StagedRounds", setup: Setup) -> dict[str, dict]:
    """Microseconds per image of each part of our pipeline on one core."""
    # The median batch of each round, as other load on the machine slows some; the first warms up.
    parts: dict[str, Callable[[Stages], float]] = {
        "decode": lambda batch: batch.decoding,
        "crop and resize": lambda batch: batch.resizing,
        "all the rest": lambda batch: batch.rest,
        "of that, reading": lambda batch: batch.reading,
    }
    return {
        name: spread(
            [1e6 / setup.batch_size * median(map(part, batches)) for batches in staged.rounds[1:]]
        )
        for name, part in parts.items()
    }


class _StagedRounds:
    """Rounds of our pipeline, with the times of all batches in parts."""

    def __init__(self, setup: Setup) -> None:
        self.batches = setup.batches
        self.staged = StagedBatches(setup.manifest, setup.size, setup.batch_size)
        self.rounds: list[list[Stages]] = []

    def __call__(self) -> float:
        """Run the next round; returns its seconds."""
        self.rounds.append([self.staged.next_batch() for _ in range(self.batches)])
        return sum(batch.whole for batch in self.rounds[-1])


def _one_core(setup: Setup, ours: Task) -> dict[str, Task]:
    """All pipelines in this process; the first is the reference."""
    size, batch_size = setup.size, setup.batch_size

    def rounds_of(stream: Iterator) -> Task:
        return partial(_take, stream, setup.batches)

    def with_settings(manifest: Manifest, config: DataConfig) -> Task:
        return rounds_of(our_batches(manifest, size, batch_size, 0, config))

    views = DataConfig(repeats=setup.repeats)
    tasks = {
        **{
            name: rounds_of(start(setup.manifest, size, batch_size, 0))
            for name, start in setup.others.batches.items()
        },
        OURS: ours,
        f"{OURS}, {views.repeats} views of a decoded image": with_settings(setup.manifest, views),
        f"{OURS}, crops left to the device": with_settings(
            setup.manifest, DataConfig(crop_on_device=True)
        ),
        f"{OURS}, JPEGs left to the device": with_settings(
            setup.manifest, DataConfig(decode_on_device=True)
        ),
    }
    if setup.short:
        tasks[f"{OURS}, short images"] = with_settings(setup.short, DataConfig())
    return tasks


def _processes(setup: Setup) -> dict[str, Task]:
    """All pipelines with data workers, which start anew each round so as not to disturb others."""
    common = (setup.manifest, setup.size, setup.batch_size, setup.workers)
    starts: dict[str, Callable[[], Generator]] = {
        **{name: partial(start, *common) for name, start in setup.others.batches.items()},
        OURS: partial(our_batches, *common, DataConfig()),
    }

    def one_round(start: Callable[[], Generator]) -> float:
        stream = start()
        _take(stream, 3 * setup.workers)  # waits for their start and uses up prefetched batches
        seconds = _take(stream, setup.batches * setup.workers)
        stream.close()
        return seconds

    return {name: partial(one_round, start) for name, start in starts.items()}


def _reading(setup: Setup) -> dict[str, Task]:
    """Undecoded files in shuffled order, in this process."""
    samples = setup.batches * setup.batch_size * READING_FACTOR
    return {
        **{
            name: partial(_take, iter(start(setup.manifest)), samples)
            for name, start in setup.others.samples.items()
        },
        OURS: partial(_take, our_bytes(setup.manifest), samples),
    }


def _take(stream: Iterator, count: int) -> float:
    """Seconds of the next `count` items of an endless stream."""
    start = time.perf_counter()
    for _ in range(count):
        next(stream)
    return time.perf_counter() - start
