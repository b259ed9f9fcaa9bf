"""Mean and standard deviation of a data set's channels, measured once on a part of it."""

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

SAMPLE = 1000
SHARDS = 32
LOOKS = 64


class Statistics(NamedTuple):
    """Of pixels in [0, 1]."""

    images: int
    """that were looked at"""
    mean: tuple[float, ...]
    """per channel"""
    std: tuple[float, ...]
    """per channel"""


def channel_statistics(images: Images, index_dir: Path | None = None) -> Statistics:
    """Over all pixels of up to SAMPLE images, each image with the same weight.

    Kept beside the indexes of the shards.  Raises UserError where no image is usable, or a
    channel is the same everywhere.
    """
    manifest = images.manifest
    name = f"statistics-{manifest.fingerprint[:16]}-{images.channels}x{images.bits}.json"
    file = index_folder(manifest.shards[0], index_dir) / name
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(file.read_text())
        return Statistics(stored["images"], tuple(stored["mean"]), tuple(stored["std"]))
    statistics = _measure(images)
    with suppress(OSError):  # a folder that cannot be written only costs time
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".tmp")
        part.write_text(json.dumps(statistics._asdict()))
        part.replace(file)
    return statistics


def channels_and_bits(manifest: Manifest, cache: ShardCache | None = None) -> tuple[int, int]:
    """What most images have, alpha not counted, by the headers of some.

    Raises UserError where none of those is usable.
    """
    reader = ShardReader(manifest, cache)
    found: Counter[tuple[int, int]] = Counter()
    for sample in some_samples(manifest, LOOKS):
        with suppress(SampleError, BadImage):
            info = read_info(reader.read(sample), EXTENSIONS[manifest.kind[sample]])
            found[info.colours, info.bits] += 1
    if not found:
        raise UserError(f"{manifest.shard_name(0)}: no usable image among {LOOKS}")
    return found.most_common(1)[0][0]


def some_samples(manifest: Manifest, count: int = SAMPLE) -> list[int]:
    """`count` samples spread evenly over SHARDS shards, themselves spread evenly."""
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
