"""Training data built from the settings: manifest, order, cache, batches, shards fetched ahead."""

from collections.abc import Container, Generator, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch

from mae.base.device import loader_count
from mae.base.errors import UserError
from mae.config.sections import Config, DataConfig
from mae.data.batch import BatchSharding, TrainingBatch, step_names
from mae.data.class_matching import with_class_names
from mae.data.device_decoding import CropDecoder, decoded_on_device
from mae.data.images import Images
from mae.data.manifest import Manifest
from mae.data.needs import check_files, with_pairs
from mae.data.opening import images_for, training_manifest, warn_of
from mae.data.order import Order
from mae.data.prefetching import MAX_AHEAD, prefetch_shards
from mae.data.shard_names import remote_shards
from mae.data.statistics import Statistics, channel_statistics
from mae.data.views import EncodedViews, build_training_views
from mae.data.worker_loader import load_in_workers
from mae.objectives.registry import data_needs, declaration
from mae.storage.cache import ShardCache, build_cache

CPU = torch.device("cpu")
MOST_MISFIT = 4.0
"""factor between given and measured standard deviations of floats that is taken for a mistake"""


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
        return images_for(config, self.manifest, self.cache)

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
        declared = declaration(config.objective)
        views = build_training_views(
            self.manifest,
            self.order,
            config.data,
            img_size,
            channels=config.data.in_chans,
            cache=self.cache,
            augment=declared.augmentation(config, img_size),
            needs=data_needs(config),
        )
        positions = self.fetched_ahead(
            config.data,
            sharding.micro_batches(first, last, skipped),
            sharding.device_batch,
            sharding.num_processes,
        )
        workers, minutes = loader_count(config.data.workers), config.train.timeout_minutes
        if not isinstance(views, EncodedViews):
            return load_in_workers(views, positions, workers, minutes)
        return decoded_on_device(
            load_in_workers(views, positions, workers, minutes),
            sharding.micro_batches(first, last, skipped),
            views,
            CropDecoder(device, config.data.in_chans),
        )

    def fetched_ahead(
        self, config: DataConfig, positions: Iterable[range], device_batch: int, num_processes: int
    ) -> Iterator[range]:
        """`positions` of micro-batches, while remote shards of the next ones are downloaded.

        `device_batch`: number of positions of each; they are those of one of `num_processes`.
        """
        at_once = shards_at_once(config, self.manifest, 1 / num_processes)
        in_window = at_once * len(self.manifest) / len(self.manifest.shards)
        ahead = min(MAX_AHEAD, int(in_window / device_batch) + 1)
        return prefetch_shards(positions, self.manifest, self.order, self.cache, ahead)


def open_training_data(
    config: Config, manifest: Manifest | None = None, local_share: float = 1.0
) -> tuple[Config, TrainingData]:
    """The training data, and the settings completed by values measured on it.

    `manifest` is that of the training shards (default: made here); `local_share` is the share of
    all processes that run on this machine.  Raises UserError and StorageError as `build_manifest`,
    `with_class_names`, `with_pairs`, `check_files`, `build_order`, `check_cache` and
    `with_own_statistics` do.
    """
    declared = declaration(config.objective)
    manifest = manifest or training_manifest(config.data)
    if declared.needs_labels:
        manifest = with_class_names(manifest, "data.train")
    needs = data_needs(config)
    manifest = with_pairs(manifest, needs.pairs, "data.train", is_training=True)
    order = build_order(config.data, manifest, config.train.seed, config.train.batch_size)
    check_cache(config.data, manifest, local_share)
    check_files(images_for(config, manifest), config.data.img_size, "data.train")
    config = with_own_statistics(config, manifest.changed(second=None))
    config = declared.complete(config, manifest)
    return config, TrainingData(manifest, order, build_cache(config.data))


def with_own_statistics(config: Config, manifest: Manifest) -> Config:
    """The settings, with mean and std measured on the data if data.own_statistics is set.

    Raises UserError as `channel_statistics` does.
    """
    data = config.data
    if not (data.own_statistics or data.is_float):
        return config
    images = Images(manifest, config.data.in_chans, data.bits, build_cache(data))
    statistics = channel_statistics(images, data.index_dir)
    warn_of("data.train", [statistics.note] * bool(statistics.note))
    if not data.own_statistics:
        _refuse_misfit(data, statistics)
        return config
    measured = {"mean": statistics.mean, "std": statistics.std}
    return config.model_copy(update={"data": data.model_copy(update=measured)})


def _refuse_misfit(data: DataConfig, measured: Statistics) -> None:
    """Raise UserError where data.mean and data.std leave floats far from mean 0 and std 1."""
    remedy = "data.own_statistics=true measures both"
    rows = zip(data.mean, data.std, measured.mean, measured.std, strict=True)
    for channel, (mean, std, own_mean, own_std) in enumerate(rows):
        if not 1 / MOST_MISFIT < own_std / std < MOST_MISFIT:
            raise UserError(
                f"data.std: channel {channel} has a standard deviation of {own_std:g}, not "
                f"{std:g}: {remedy}"
            )
        if abs(own_mean - mean) > MOST_MISFIT * std:
            raise UserError(
                f"data.mean: channel {channel} has a mean of {own_mean:g}, not {mean:g}: {remedy}"
            )


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
    remote = manifest.shard_bytes[remote_shards(manifest.shards)]
    if not len(remote):
        return
    windows = 1 if config.order == "global" else 2
    shards = min(len(remote), windows * shards_at_once(config, manifest, share_of_lanes))
    needed = float(remote.mean()) * shards / 1e9
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
