"""Mean and standard deviation of a data set's channels, measured once on a subset."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mae.base.errors import SampleError, UserError
from mae.data.images import Images
from mae.data.index import index_folder
from mae.data.manifest import Manifest
from mae.data.shard_reader import ShardReader
from mae.decoding.decode import read_info
from mae.decoding.pixels import EXTENSIONS, BadImage
from mae.storage.cache import ShardCache

HEADERS = 64
"""number of images whose headers decide channels and bits"""
MEASURED = 1000
"""maximum number of images that are measured"""
SHARDS = 32
"""maximum number of shards that these images are from"""


class Statistics(NamedTuple):
    """Channel statistics of pixels in [0, 1]."""

    images: int
    """number of measured images"""
    mean: tuple[float, ...]
    """per channel"""
    std: tuple[float, ...]
    """per channel"""


def channel_statistics(images: Images, index_dir: Path | None = None) -> Statistics:
    """Statistics over all pixels of at most MEASURED images, each with the same weight.

    Cached beside the indexes of the shards.  Raises UserError where no image is usable, or a
    channel is constant.
    """
    manifest = images.manifest
    name = f"statistics-{manifest.fingerprint[:16]}-{images.channels}x{images.bits}.json"
    file = index_folder(manifest.shards[0], index_dir) / name
    if stored := _load(file, images.channels):
        return stored
    statistics = _measure(images)
    with suppress(OSError):  # not cached where the folder is not writable
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".tmp")
        part.write_text(json.dumps(statistics._asdict()))
        part.replace(file)
    return statistics


def _load(file: Path, channels: int) -> Statistics | None:
    """The cached statistics; None where the file is absent, damaged or of other channels."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        if not file.is_file():
            return None
        stored = json.loads(file.read_text())
        mean, std = ([float(value) for value in stored[name]] for name in ("mean", "std"))
        if len(mean) == len(std) == channels and all(
            0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)
        ):
            return Statistics(int(stored["images"]), tuple(mean), tuple(std))
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


def _measure(images: Images) -> Statistics:
    means, squares = [], []
    error: SampleError | None = None
    for sample in some_samples(images.manifest):
        try:
            pixels = images[sample]
        except SampleError as bad:
            error = bad
            continue
        values = pixels.to(torch.float64).flatten(1) / (2**images.bits - 1)
        means.append(values.mean(dim=1))
        squares.append(values.square().mean(dim=1))
    if not means:
        raise UserError(f"no usable image to measure mean and std on: {error}")
    mean, square = torch.stack(means).mean(dim=0), torch.stack(squares).mean(dim=0)
    std = (square - mean**2).clamp(min=0).sqrt()
    if (std < 1e-6).any():
        channel = int((std < 1e-6).nonzero()[0])
        raise UserError(f"channel {channel} is the same in all pixels: data.std would be 0")
    digits = [[round(value, 6) for value in values.tolist()] for values in (mean, std)]
    return Statistics(len(means), tuple(digits[0]), tuple(digits[1]))
