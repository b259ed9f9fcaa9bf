"""Mean and standard deviation of a data set's channels, measured once on a subset."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae.base.divided_work import DividedWork, part_sizes
from mae.base.errors import SampleError, UserError
from mae.base.files import new_file
from mae.base.progress import Progress, ProgressLine, no_progress
from mae.data.images import Images
from mae.data.index import index_folder
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader
from mae.data.task_pool import on_workers
from mae.decoding.decode import read_info
from mae.decoding.pixels import EXTENSIONS, FLOAT_BITS, BadImage, white_of
from mae.storage.cache import ShardCache

HEADERS = 64
"""number of images whose headers decide channels and bits"""
MEASURED = 1000
"""maximum number of images that are measured"""
MEASURED_AT_ONCE = 32
"""number of images of a part, where several processes measure them"""
SHARDS = 32
"""maximum number of shards that these images are from"""

BRIGHTER, FEW, RAISED = 4, 0.1, 1.5
"""images are outliers where their root mean square is more than so many times the median, they are
at most this share of all, and raise the standard deviation at least so many times"""
NAMED = 3
"""maximum number of outliers that are named"""


class Statistics(NamedTuple):
    """Channel statistics of pixels in [0, 1], or of floats."""

    images: int
    """number of measured images"""
    mean: tuple[float, ...]
    """per channel"""
    std: tuple[float, ...]
    """per channel"""
    note: str = ""
    """line for the user on few images that decide these numbers; "" where there are none"""


class Moments(NamedTuple):
    """Moments of the pixels of some images, each with a row of its channels' numbers."""

    mean: list[list[float]]
    square: list[list[float]]
    error: str
    """defect of the last unusable image; empty: none"""
    samples: Sequence[int] = ()
    """numbers of the images"""


def channel_statistics(images: Images, index_dir: Path | None = None) -> Statistics:
    """Statistics over all pixels of at most MEASURED images, each with the same weight.

    Cached beside the indexes of the shards.  Raises UserError where no image is usable, or a
    channel is constant.
    """
    file = _file(images, index_dir)
    if stored := _load(file, images.channels, images.bits):
        return stored
    samples = some_samples(images.manifest)
    with ProgressLine("measuring pixels", "images") as show:
        statistics = _combined([_moments(images, samples, show)], images.manifest)
    _store(file, statistics)
    return statistics


def measure_divided(images: Images, work: DividedWork, workers: int = 0) -> None:
    """Measure what `channel_statistics` then finds beside the shards, by all processes of `work`.

    Nothing is kept of pixels for which it raises UserError.
    """
    samples = some_samples(images.manifest)
    sizes = part_sizes(len(samples), MEASURED_AT_ONCE)

    def own(part: int) -> list[int]:
        return samples[part * sizes[0] : (part + 1) * sizes[0]]

    measure = on_workers(partial(_moments_as_json, images), own, workers)
    show = ProgressLine("measuring pixels", "images", work.portion.log)
    work.do("pixels", sizes, measure, show, needs_all=True)
    if work.portion.joins:
        found = [Moments(*json.loads(part)) for part in work.results("pixels", len(sizes))]
        with suppress(UserError):
            _store(_file(images, None), _combined(found, images.manifest))


def _load(file: Path, channels: int, bits: int) -> Statistics | None:
    """The cached statistics; None where the file is absent, damaged or of other channels."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        if not file.is_file():
            return None
        stored = json.loads(file.read_text())
        mean, std = ([float(value) for value in stored[name]] for name in ("mean", "std"))
        if len(mean) == len(std) == channels and all(
            (0 <= m <= 1 and 0 < s <= 1) if bits != FLOAT_BITS else (isfinite(m) and s > 0)
            for m, s in zip(mean, std, strict=True)
        ):
            note = str(stored.get("note", ""))
            return Statistics(int(stored["images"]), tuple(mean), tuple(std), note)
    return None


def channels_and_bits(manifest: Manifest, cache: ShardCache | None = None) -> tuple[int, int]:
    """The most frequent channels (without alpha) and bits per channel among some headers.

    Raises UserError where none of these images is usable.
    """
    reader = ShardReader(manifest, cache)
    kinds: Counter[tuple[int, int]] = Counter()
    for sample in some_samples(manifest, HEADERS):
        with suppress(SampleError, BadImage):
            info = read_info(reader.read(sample), EXTENSIONS[manifest.kind[sample]])
            kinds[info.colours, info.bits] += 1
    if not kinds:
        raise UserError(f"{manifest.shard_name(0)}: no usable image among {HEADERS}")
    return kinds.most_common(1)[0][0]


def some_samples(manifest: Manifest, count: int = MEASURED) -> list[int]:
    """`count` samples, evenly spaced in each of SHARDS evenly spaced shards."""
    number = len(manifest.shards)
    shards = np.unique(np.linspace(0, number - 1, min(number, SHARDS)).astype(int))
    counts = manifest.counts()
    each = -(-count // len(shards))
    chosen = [
        manifest.first[shard] + np.arange(min(each, counts[shard])) * counts[shard] // each
        if counts[shard] >= each
        else manifest.first[shard] + np.arange(counts[shard])
        for shard in shards
    ]
    return np.concatenate(chosen)[:count].tolist()


def _file(images: Images, index_dir: Path | None) -> Path:
    manifest = images.manifest
    name = f"statistics-{manifest.fingerprint[:16]}-{images.channels}x{images.bits}.json"
    return index_folder(manifest.shards[0], index_dir) / name


def _store(file: Path, statistics: Statistics) -> None:
    with suppress(UserError), new_file(file) as part:  # not cached in a folder that is not writable
        part.write_text(json.dumps(statistics._asdict()))


def _moments(images: Images, samples: Sequence[int], show: Progress = no_progress) -> Moments:
    found = Moments([], [], "", usable := [])
    for done, sample in enumerate(samples, 1):
        show(done, len(samples))
        try:
            pixels = images[sample]
        except SampleError as bad:
            found = found._replace(error=str(bad))
            continue
        values = pixels.to(torch.float64).flatten(1) / white_of(images.bits)
        usable.append(sample)
        found.mean.append(values.mean(dim=1).tolist())
        found.square.append(values.square().mean(dim=1).tolist())
    return found


def _moments_as_json(images: Images, samples: Sequence[int]) -> bytes:
    return json.dumps(_moments(images, samples)).encode()


def _combined(parts: Sequence[Moments], manifest: Manifest) -> Statistics:
    means, squares = (
        torch.tensor([row for part in parts for row in part[column]], dtype=torch.float64)
        for column in (0, 1)
    )
    count = len(means)
    if not count:
        error = "".join(part.error for part in parts[-1:])
        raise UserError(f"no usable image to measure mean and std on: {error}")
    mean, std = means.mean(dim=0), _deviation(means, squares)
    if (std < 1e-6).any():
        channel = int((std < 1e-6).nonzero()[0])
        raise UserError(f"channel {channel} is the same in all pixels: data.std would be 0")
    digits = [[round(value, 6) for value in values.tolist()] for values in (mean, std)]
    samples = [sample for part in parts for sample in part.samples]
    note = _outlier_note(means, squares, samples, manifest)
    return Statistics(count, tuple(digits[0]), tuple(digits[1]), note)


def _deviation(means: Tensor, squares: Tensor) -> Tensor:
    """Standard deviation of each channel, from the moments of the images [n c]."""
    return (squares.mean(dim=0) - means.mean(dim=0) ** 2).clamp(min=0).sqrt()


def _outlier_note(
    means: Tensor, squares: Tensor, samples: Sequence[int], manifest: Manifest
) -> str:
    """Line on few images, far brighter than the median one, that raise the deviation a lot."""
    level = squares.mean(dim=1).sqrt()
    brighter = level > BRIGHTER * level.median()
    number, rest = int(brighter.sum()), ~brighter
    if not 0 < number <= FEW * len(level):
        return ""
    whole = float(_deviation(means, squares).mean())
    without = float(_deviation(means[rest], squares[rest]).mean())
    if whole < RAISED * without:
        return ""
    first = [manifest.name(sample) for sample in np.array(samples)[brighter.numpy()].tolist()]
    return (
        f"{number:,} of {len(level):,} images are more than {BRIGHTER} times as bright as the "
        f"median one and decide the standard deviation ({whole:.3g}, without them {without:.3g}): "
        f"8-bit copies or screenshots? leave them out, first {', '.join(first[:NAMED])}"
    )
