"""Training data built from the settings: manifest, order, cache, batches, shards fetched ahead."""

import os
import sys
from collections.abc import Callable, Container, Generator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from mae.base.errors import UserError
from mae.config.sections import Config, DataConfig
from mae.data.batch import BatchSharding, TrainingBatch, step_names
from mae.data.class_matching import in_classes_of, match_note, with_class_names
from mae.data.class_names import Names
from mae.data.device_decoding import CropDecoder, decoded_on_device
from mae.data.images import Images
from mae.data.manifest import Manifest, build_manifest, merge
from mae.data.order import Order
from mae.data.prefetching import MAX_AHEAD, prefetch_shards
from mae.data.statistics import channel_statistics
from mae.data.views import EncodedViews, build_training_views
from mae.data.worker_loader import load_in_workers
from mae.objectives.registry import declaration
from mae.storage.cache import ShardCache, build_cache
from mae.storage.remote import is_remote

CPU = torch.device("cpu")


class TrainingSource(Protocol):
    """Interface of `TrainingData` for other training samples in an order."""

    @property
    def manifest(self) -> Manifest:
        """The samples."""
        ...

    def names(self, step: int, batch_size: int) -> list[str]:
        """Names of the samples of training step `step`, counted from 1."""
        ...

    def images(self, config: Config) -> Images:
        """The images by number."""
        ...

    def batches(
        self,
        config: Config,
        sharding: BatchSharding,
        img_size: tuple[int, int],
        first: int,
        last: int,
        skipped: Container[int] = (),
        device: torch.device = ...,
    ) -> Generator[TrainingBatch]:
        """Micro-batches of this process for steps first + 1 to last, without the `skipped` ones."""
        ...


class TrainingData(NamedTuple):
    """Training samples of a run, their order and the cache of remote shards."""

    manifest: Manifest
    order: Order
    cache: ShardCache

    def names(self, step: int, batch_size: int) -> list[str]:
        """`SHARD: key KEY` of every sample of training step `step`, counted from 1."""
        return step_names(self.manifest, self.order, step, batch_size)

    def images(self, config: Config) -> Images:
        """The images by number."""
        return Images(self.manifest, config.data.in_chans, config.data.bits, self.cache)

    def batches(
        self,
        config: Config,
        sharding: BatchSharding,
        img_size: tuple[int, int],
        first: int,
        last: int,
        skipped: Container[int] = (),
        device: torch.device = CPU,
    ) -> Generator[TrainingBatch]:
        """Micro-batches of this process for steps first + 1 to last, without the `skipped` ones.

        Steps count from 1.  `device` decodes the images if data.decode_on_device is set.  Raises
        SampleError for a bad sample without a usable replacement, StorageError for an unreadable
        shard, WorkerDied for a dead worker.
        """
        views = build_training_views(
            self.manifest,
            self.order,
            config.data,
            img_size,
            channels=config.data.in_chans,
            cache=self.cache,
            augment=declaration(config.objective).augmentation(config, img_size),
        )
        at_once = shards_at_once(config.data, self.manifest, 1 / sharding.num_processes)
        in_window = at_once * len(self.manifest) / len(self.manifest.shards)
        positions = prefetch_shards(
            sharding.micro_batches(first, last, skipped),
            self.manifest,
            self.order,
            self.cache,
            ahead=min(MAX_AHEAD, int(in_window / sharding.device_batch) + 1),
        )
        workers, minutes = config.data.workers, config.train.timeout_minutes
        if not isinstance(views, EncodedViews):
            return load_in_workers(views, positions, workers, minutes)
        return decoded_on_device(
            load_in_workers(views, positions, workers, minutes),
            sharding.micro_batches(first, last, skipped),
            views,
            CropDecoder(device, config.data.in_chans),
        )


def open_training_data(
    config: Config,
    local_share: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Config, TrainingData]:
    """The training data, and the settings completed by values measured on it.

    `local_share` is the share of all processes that run on this machine; `progress` is called with
    the number of indexed shards and of all shards.  Raises UserError and StorageError as
    `build_manifest`, `with_class_names`, `build_order`, `check_cache` and `with_own_statistics` do.
    """
    manifest = training_manifest(config.data, progress)
    if declaration(config.objective).needs_labels:
        manifest = with_class_names(manifest, "data.train")
    order = build_order(config.data, manifest, config.train.seed, config.train.batch_size)
    check_cache(config.data, manifest, local_share)
    config = with_own_statistics(config, manifest)
    config = declaration(config.objective).complete(config, manifest)
    return config, TrainingData(manifest, order, build_cache(config.data))


def open_images(patterns: Sequence[str], key: str, config: Config) -> Images:
    """Images of shards other than the training shards, read with the settings of a run.

    `key` names `patterns` in messages.  The first process warns on stderr of images and labels
    that are not read.  Raises as `build_manifest` does.
    """
    data, cache = config.data, build_cache(config.data)
    manifest = build_manifest(patterns, key, data.index_dir, cache)
    _warn(key, manifest.warnings())
    return Images(manifest, config.data.in_chans, data.bits, cache)


def _warn(key: str, lines: Sequence[str]) -> None:
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(f"warning: {key}: {line}", file=sys.stderr)


class LabelledImages(NamedTuple):
    """Images whose labels count the classes of other data, or of a model."""

    images: Images
    note: str
    """line on how the classes were matched; "": both have the same names"""


def open_labelled(
    patterns: Sequence[str], key: str, config: Config, names: Names, of: str
) -> LabelledImages:
    """Images as `open_images`, with the labels that the class `names` of `of` give to them.

    Raises UserError also where the classes are others (`with_class_names`, `in_classes_of`).
    """
    images = open_images(patterns, key, config)
    manifest = with_class_names(images.manifest, key)
    _warn(key, [manifest.class_note] * bool(manifest.class_note))
    note = match_note(manifest.class_names, names, key, of)
    return LabelledImages(images.of(in_classes_of(manifest, names, key, of)), note)


def training_images(config: Config) -> Images:
    """Images of the training shards, by number.  Raises as `training_manifest` does."""
    data = config.data
    return Images(training_manifest(data), data.in_chans, data.bits, build_cache(data))


def training_manifest(
    config: DataConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> Manifest:
    """Manifest of data.train, or of the data sets of data.mixture.

    Raises UserError and StorageError as `build_manifest` does.
    """
    cache = build_cache(config)
    if not config.mixture:
        return build_manifest(config.train, "data.train", config.index_dir, cache, progress)
    return merge(
        [
            build_manifest(part.shards, f"data.mixture.{i}", config.index_dir, cache, progress)
            for i, part in enumerate(config.mixture)
        ]
    )


def with_own_statistics(config: Config, manifest: Manifest) -> Config:
    """The settings, with mean and std measured on the data if data.own_statistics is set.

    Raises UserError as `channel_statistics` does.
    """
    data = config.data
    if not data.own_statistics:
        return config
    images = Images(manifest, config.data.in_chans, data.bits, build_cache(data))
    statistics = channel_statistics(images, data.index_dir)
    measured = {"mean": statistics.mean, "std": statistics.std}
    return config.model_copy(update={"data": data.model_copy(update=measured)})


def build_order(config: DataConfig, manifest: Manifest, seed: int, batch_size: int) -> Order:
    """The training order; UserError where there are more lanes than samples."""
    counts = manifest.dataset_counts()
    if config.order == "lanes" and (fewest := min(int(n.sum()) for n in counts)) < config.lanes:
        raise UserError(f"data.lanes: {config.lanes} for {fewest} images: use data.order=global")
    return Order(
        seed,
        counts,
        mode=config.order,
        window=config.window,
        lanes=config.lanes,
        batch_size=batch_size,
        weights=[part.weight for part in config.mixture] or [1.0],
        repeats=config.repeats,
    )


def shards_at_once(config: DataConfig, manifest: Manifest, share_of_lanes: float) -> int:
    """Number of shards read at a time by processes with this share of the lanes."""
    if config.order == "global":
        return len(manifest.shards)
    lanes = max(1, round(config.lanes * share_of_lanes)) if config.order == "lanes" else 1
    return min(len(manifest.shards), lanes * config.window * max(1, len(config.mixture)))


def check_cache(config: DataConfig, manifest: Manifest, share_of_lanes: float) -> None:
    """Raise UserError where the cache cannot hold the remote shards that are read at a time.

    These are two windows: the one being read and the one being fetched.
    """
    remote = [
        size
        for location, size in zip(manifest.shards, manifest.shard_bytes, strict=True)
        if is_remote(location)
    ]
    if not remote:
        return
    windows = 1 if config.order == "global" else 2
    shards = min(len(remote), windows * shards_at_once(config, manifest, share_of_lanes))
    needed = float(np.mean(remote)) * shards / 1e9
    if needed > config.cache_gb:
        hint = (
            "data.order=window reads a few shards at a time"
            if config.order == "global"
            else "a smaller data.window needs less"
        )
        raise UserError(
            f"data.cache_gb: {config.cache_gb:g}, but data.order={config.order} needs {needed:.3g} "
            f"GB for the remote shards in use: raise it, or {hint}"
        )
