"""`mae bench loader`: images per second from shards to batches, and where their time goes."""

import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mae.base.errors import UserError
from mae.bench.pixels import pixel_differences
from mae.bench.samples import copy_samples
from mae.bench.stages import StagedBatches, Stages
from mae.bench.stream import our_batches, our_bytes
from mae.bench.timing import interleaved, machine, one_thread, ratios, spread
from mae.config.sections import DataConfig
from mae.data.manifest import Manifest, build_manifest
from mae.storage.cache import ShardCache

READINGS = 8
"""times more samples in a round of reading, which is so much faster"""

OURS = "mae"

Task = Callable[[], float]
Seconds = dict[tuple[str, str], list[float]]
"""of each round, by group and pipeline"""


class Others(NamedTuple):
    """Pipelines to compare with, by name; the first is what the others are compared with."""

    batches: Mapping[str, Callable[[Manifest, tuple[int, int], int, int], Generator]] = {}
    """endless batches, from (shards, image size, batch size, workers)"""
    samples: Mapping[str, Callable[[Manifest], Iterable]] = {}
    """endless samples, undecoded"""


ALONE = Others()


class Setting(NamedTuple):
    """Images and sizes of a measurement."""

    manifest: Manifest
    short: Manifest | None
    """the same number of images with a shorter side, or none"""
    size: tuple[int, int]
    batch_size: int
    batches: int
    """of a round"""
    workers: int
    repeats: int
    others: Others


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
    """Measure on `images` images of `shards`, in `rounds` rounds of so many images each.

    `short`: the same data with a shorter side, measured beside it.  `workers`: processes of the
    last part (default: all cores; 0: leave it out).  `others` are measured beside ours.  The result
    is ready for JSON; `report.table` shows it.  Raises UserError where the shards cannot be read or
    hold too few images.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if images < batch_size or images % batch_size:
        raise UserError(f"bench: {images} images are no multiple of the batch of {batch_size}")
    with tempfile.TemporaryDirectory(prefix="mae-bench-") as folder, one_thread():

        def copied(patterns: Sequence[str], name: str) -> Manifest:
            manifest = build_manifest(patterns, name, index_dir, cache)
            return copy_samples(manifest, images, Path(folder, name), max(4, workers), cache)

        setting = Setting(
            manifest=copied(shards, "shards"),
            short=copied(short, "--short") if short else None,
            size=(img_size, img_size),
            batch_size=batch_size,
            batches=images // batch_size,
            workers=workers,
            repeats=repeats,
            others=others,
        )
        staged = _Staged(setting)
        groups = {
            "one_core": _one_core(setting, staged),
            "processes": _processes(setting) if workers else {},
            "reading": _reading(setting),
        }
        tasks = {(group, name): task for group in groups for name, task in groups[group].items()}
        seconds = interleaved(tasks, rounds, progress)
        pixels = pixel_differences(setting.manifest, setting.size)
    return {
        "machine": machine(),
        "images": images,
        "bytes_per_image": round(float(setting.manifest.size.mean())),
        "img_size": img_size,
        "batch_size": batch_size,
        "rounds": rounds,
        "workers": workers,
        "one_core": _rates(groups["one_core"], "one_core", seconds, images),
        "processes": _rates(groups["processes"], "processes", seconds, images * workers),
        "reading": _rates(groups["reading"], "reading", seconds, images * READINGS),
        "us_per_image": _in_parts(staged, setting),
        "pixels": pixels,
    }


def _rates(names: Iterable[str], group: str, seconds: Seconds, images: int) -> dict[str, dict]:
    """Images per second of each pipeline, and how many times the first one's they are."""
    taken = {name: seconds[group, name] for name in names}
    return {
        name: {
            "images_per_s": spread([images / own for own in rounds]),
            "ratio": spread(ratios(next(iter(taken.values())), rounds)),
        }
        for name, rounds in taken.items()
    }


def _in_parts(staged: "_Staged", setting: Setting) -> dict[str, dict]:
    """Time of each part of our pipeline, on one core, in µs per image."""
    # Of a round the median batch: what else the machine does hits some.  The first warms up.
    parts: dict[str, Callable[[Stages], float]] = {
        "decode": lambda batch: batch.decoding,
        "crop and resize": lambda batch: batch.resizing,
        "all the rest": lambda batch: batch.rest,
        "of that, reading": lambda batch: batch.reading,
    }
    return {
        name: spread(
            [1e6 / setting.batch_size * median(map(part, batches)) for batches in staged.rounds[1:]]
        )
        for name, part in parts.items()
    }


class _Staged:
    """Our pipeline; what each round's batches took, in parts."""

    def __init__(self, setting: Setting) -> None:
        self.batches = setting.batches
        self.staged = StagedBatches(setting.manifest, setting.size, setting.batch_size)
        self.rounds: list[list[Stages]] = []

    def __call__(self) -> float:
        """Seconds of the next round."""
        self.rounds.append([self.staged.next_batch() for _ in range(self.batches)])
        return sum(batch.whole for batch in self.rounds[-1])


def _one_core(setting: Setting, ours: Task) -> dict[str, Task]:
    """Everything in this process; the first is what the others are compared with."""
    size, batch_size = setting.size, setting.batch_size

    def take(stream: Iterator) -> Task:
        return partial(_take, stream, setting.batches)

    def with_settings(manifest: Manifest, config: DataConfig) -> Task:
        return take(our_batches(manifest, size, batch_size, 0, config))

    views = DataConfig(repeats=setting.repeats)
    tasks = {
        **{
            name: take(start(setting.manifest, size, batch_size, 0))
            for name, start in setting.others.batches.items()
        },
        OURS: ours,
        f"{OURS}, {views.repeats} views of a decoded image": with_settings(setting.manifest, views),
        f"{OURS}, crops left to the device": with_settings(
            setting.manifest, DataConfig(crop_on_device=True)
        ),
        f"{OURS}, JPEGs left to the device": with_settings(
            setting.manifest, DataConfig(decode_on_device=True)
        ),
    }
    if setting.short:
        tasks[f"{OURS}, short images"] = with_settings(setting.short, DataConfig())
    return tasks


def _processes(setting: Setting) -> dict[str, Task]:
    """With worker processes, which start anew each round so that they disturb no other's."""
    common = (setting.manifest, setting.size, setting.batch_size, setting.workers)
    starts: dict[str, Callable[[], Generator]] = {
        **{name: partial(start, *common) for name, start in setting.others.batches.items()},
        OURS: partial(our_batches, *common, DataConfig()),
    }

    def run(start: Callable[[], Generator]) -> float:
        stream = start()
        _take(stream, 3 * setting.workers)  # started, and what they make ahead is made
        seconds = _take(stream, setting.batches * setting.workers)
        stream.close()
        return seconds

    return {name: partial(run, start) for name, start in starts.items()}


def _reading(setting: Setting) -> dict[str, Task]:
    """Bytes only, in shuffled order."""
    samples = setting.batches * setting.batch_size * READINGS
    return {
        **{
            name: partial(_take, iter(start(setting.manifest)), samples)
            for name, start in setting.others.samples.items()
        },
        OURS: partial(_take, our_bytes(setting.manifest), samples),
    }


def _take(stream: Iterator, count: int) -> float:
    """Seconds that the next `count` items take, of a stream that never ends."""
    start = time.perf_counter()
    for _ in range(count):
        next(stream)
    return time.perf_counter() - start
