"""The loader for `mae bench loader`: its stages timed one by one, its pixels beside Pillow's."""

import io
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor

from mae.base.errors import SampleError, UserError
from mae.base.hashing import fold
from mae.config.sections import DataConfig
from mae.data import images, views
from mae.data.batch import Batch, BatchSharding, Crops, EncodedCrops
from mae.data.device_crop import pack_crops, resize_crops
from mae.data.indexing import build_manifest
from mae.data.labels import NO_LABEL
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.data.shard_reader import ShardReader
from mae.data.training_data import build_order
from mae.data.transform import View, apply_view, draw_views, random_view
from mae.data.views import build_training_views
from mae.data.worker_loader import load_in_workers
from mae.decoding.decode import decode
from mae.decoding.pixels import EXTENSIONS
from mae.storage.cache import ShardCache

IMAGES = 64


def pixel_differences(manifest: Manifest, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Mean and largest absolute difference in [0, 255] after decoding and after random crops.

    Keys: "decode"; "view", crops resized on the CPU to `size` (height, width); "device crop", crops
    resized by torch.  Of the first IMAGES images, without horizontal flips.
    """
    config, reader = DataConfig(), ShardReader(manifest)
    count = min(IMAGES, len(manifest))
    draws = draw_views(fold(0, np.arange(count)))
    differences: dict[str, list[Tensor]] = {"decode": [], "view": [], "device crop": []}
    for sample, row in enumerate(draws):
        data = reader.read(sample)
        image = decode(data, EXTENSIONS[manifest.kind[sample]], 3)
        with Image.open(io.BytesIO(data)) as opened:
            theirs = opened.convert("RGB")
        height, width = image.shape[-2:]
        view = random_view(height, width, row, config.scale, config.ratio, flip=False)
        ours = {
            "decode": image,
            "view": apply_view(image, view, size),
            "device crop": resize_crops(pack_crops([image], [view]), size, "cpu")[0],
        }
        resized = crop_by_pillow(theirs, view, size)
        for name, pixels in ours.items():
            other = _pixels(theirs if name == "decode" else resized)
            differences[name].append((pixels.int() - other.int()).abs().flatten())
    return {
        name: {"mean": all_of.double().mean().item(), "max": all_of.max().item()}
        for name, all_of in ((name, torch.cat(parts)) for name, parts in differences.items())
    }


def crop_by_pillow(image: Image.Image, view: View, size: tuple[int, int]) -> Image.Image:
    """Crop and resize as torchvision's RandomResizedCrop does with a Pillow image; no flip."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    return image.crop(box).resize(size[::-1], Image.Resampling.BICUBIC)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


SEED = 0
POSITIONS = 1000
"""positions of the order that are computed together"""
FOREVER = 2**40
READ_BY_ALL = ("jpg", "jpeg", "png")
"""extensions that all compared pipelines read"""


def copy_samples(
    manifest: Manifest, count: int, folder: Path, shards: int, cache: ShardCache | None = None
) -> Manifest:
    """Copy `count` evenly spaced JPEG and PNG images with their labels to `shards` new shards.

    So every pipeline reads the same images, from memory after the first time, and webdataset has
    a shard for each worker.  Images that do not decode are replaced by others.  Raises UserError
    where fewer than `count` decode.
    """
    readable = [EXTENSIONS.index(extension) for extension in READ_BY_ALL]
    usable = np.flatnonzero(np.isin(np.asarray(manifest.kind), readable))
    even = usable[np.linspace(0, len(usable), count, endpoint=False).astype(int)]
    substitutes = np.setdiff1d(usable, even)
    opened, copied = images.Images(manifest, channels=3, cache=cache), []
    for sample in [*np.unique(even).tolist(), *substitutes.tolist()]:
        try:
            opened[sample]
        except SampleError:
            continue
        copied.append(sample)
        if len(copied) == count:
            break
    if len(copied) < count:
        raise UserError(f"bench: {len(copied)} JPEG and PNG images, not {count}: ask for fewer")
    folder.mkdir(parents=True)
    for shard in range(shards):
        path = folder / f"bench-{shard:06d}.tar"
        with webdataset.TarWriter(str(path), encoder=False) as tar:
            for sample in copied[shard::shards]:
                extension = EXTENSIONS[manifest.kind[sample]]
                record = {
                    "__key__": f"{sample:09d}",
                    extension: bytes(opened.reader.read(sample)),
                }
                if manifest.label[sample] != NO_LABEL:
                    record["cls"] = str(manifest.label[sample]).encode()
                tar.write(record)
    return build_manifest([f"{folder}/*.tar"], "bench")


def our_order(manifest: Manifest, batch_size: int, config: DataConfig) -> Order:
    """Order of the samples in `our_batches`."""
    return build_order(config, manifest, SEED, batch_size)


def our_bytes(manifest: Manifest) -> Generator[bytes]:
    """Files of the samples in training order, with verified checksums, without end."""
    reader, order = ShardReader(manifest), our_order(manifest, POSITIONS, DataConfig())
    for start in range(0, FOREVER, POSITIONS):
        places = order(np.arange(start, start + POSITIONS))
        yield from map(reader.read, places.sample.tolist())


def our_batches(
    manifest: Manifest, size: tuple[int, int], batch_size: int, workers: int, config: DataConfig
) -> Generator[Batch[Tensor | Crops | EncodedCrops]]:
    """Batches of the training loader, without end; `size`: (height, width) of the views.

    With `decode_on_device` they are not decoded.
    """
    order = our_order(manifest, batch_size, config)
    training_views = build_training_views(manifest, order, config, size, channels=3)
    positions = BatchSharding(batch_size, 1, 0, 1).micro_batches(0, FOREVER)
    yield from load_in_workers(training_views, positions, workers)


class Stages(NamedTuple):
    """Seconds of a batch, whole and in parts."""

    whole: float
    reading: float
    decoding: float
    resizing: float

    @property
    def rest(self) -> float:
        """All but decoding and resizing: order, reading, checksum, views, batch."""
        return self.whole - self.decoding - self.resizing


class StagedBatches:
    """`our_batches` in this process, with a clock around reading, decoding and resizing."""

    def __init__(self, manifest: Manifest, size: tuple[int, int], batch_size: int) -> None:
        self.stream = our_batches(manifest, size, batch_size, 0, DataConfig())

    def next_batch(self) -> Stages:
        """Make the next batch; returns its times."""
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
    """Time all calls of `owner.name`; the list's only element is their seconds."""
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
