"""The training data as the settings describe it: manifest, order, cache, batches."""

from collections import OrderedDict, deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np
import torch

from mae.base.errors import UserError
from mae.config.sections import Config, DataConfig
from mae.data.batch import BatchSharding, TrainingBatch, step_names
from mae.data.device_decoding import CropDecoder, decoded_on_device
from mae.data.images import Images
from mae.data.manifest import Manifest, build_manifest, merge
from mae.data.order import Order
from mae.data.statistics import channel_statistics
from mae.data.views import EncodedViews, build_training_views
from mae.data.worker_loader import load_in_workers
from mae.objectives.registry import declaration
from mae.storage.cache import ShardCache, build_cache
from mae.storage.files import is_remote
from mae.storage.retry import BackgroundThreads

CPU = torch.device("cpu")

MOST_AHEAD = 1000
"""micro-batches that are looked through for shards to fetch"""


class TrainingSource(Protocol):
    """Training samples in an order: `TrainingData`, or others in its place."""

    @property
    def manifest(self) -> Manifest:
        """All of the samples."""
        ...

    def names(self, step: int, batch_size: int) -> list[str]:
        """Names of the samples of the step that ends with `step` steps done."""
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
        """The micro-batches of a process for the steps in [first, last) but those `skipped`."""
        ...


class TrainingData(NamedTuple):
    """What a run trains on, and in which order."""

    manifest: Manifest
    order: Order
    cache: ShardCache

    def names(self, step: int, batch_size: int) -> list[str]:
        """`shard: key KEY` of all samples of the step that ends with `step` steps done."""
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
        """The micro-batches of a process for the steps in [first, last) but those `skipped`.

        `device` decodes them where data.decode_on_device asks for it.  Raises UserError,
        SampleError, StorageError as the samples are met, WorkerDied.
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
        positions = fetching_ahead(
            sharding.micro_batches(first, last, skipped),
            self.manifest,
            self.order,
            self.cache,
            ahead=min(MOST_AHEAD, int(in_window / sharding.device_batch) + 1),
        )
        if not isinstance(views, EncodedViews):
            return load_in_workers(views, positions, config.data.workers)
        return decoded_on_device(
            load_in_workers(views, positions, config.data.workers),
            sharding.micro_batches(first, last, skipped),
            views,
            CropDecoder(device, config.data.in_chans),
        )


def open_training_data(
    config: Config,
    local_share: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Config, TrainingData]:
    """Manifest, order and cache, and the settings with what was measured and counted.

    `local_share`: the share of all processes that work on this machine; `progress` hears of
    shards indexed and shards in all.  Raises UserError and StorageError as its parts do.
    """
    manifest = training_manifest(config.data, progress)
    order = build_order(config.data, manifest, config.train.seed, config.train.batch_size)
    check_cache(config.data, manifest, local_share)
    config = with_own_statistics(config, manifest)
    config = declaration(config.objective).complete(config, manifest)
    return config, TrainingData(manifest, order, build_cache(config.data))


def open_images(patterns: Sequence[str], key: str, config: Config) -> Images:
    """The images of shards that are not trained on, read with the settings of a run.

    `key` is what messages call `patterns`.  Raises as `build_manifest` does.
    """
    data, cache = config.data, build_cache(config.data)
    manifest = build_manifest(patterns, key, data.index_dir, cache)
    return Images(manifest, config.data.in_chans, data.bits, cache)


def training_manifest(
    config: DataConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> Manifest:
    """All samples of data.train, or of the data sets of data.mixture.

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
    """The settings, with the data's own mean and std where data.own_statistics asks for them."""
    data = config.data
    if not data.own_statistics:
        return config
    images = Images(manifest, config.data.in_chans, data.bits, build_cache(data))
    statistics = channel_statistics(images, data.index_dir)
    measured = {"mean": statistics.mean, "std": statistics.std}
    return config.model_copy(update={"data": data.model_copy(update=measured)})


def build_order(config: DataConfig, manifest: Manifest, seed: int, batch_size: int) -> Order:
    """The order of training; UserError where there are more lanes than samples."""
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
    """How many shards are read from at a time by processes that have this share of the lanes."""
    if config.order == "global":
        return len(manifest.shards)
    lanes = max(1, round(config.lanes * share_of_lanes)) if config.order == "lanes" else 1
    return min(len(manifest.shards), lanes * config.window * max(1, len(config.mixture)))


def check_cache(config: DataConfig, manifest: Manifest, share_of_lanes: float) -> None:
    """UserError where the cache cannot hold the remote shards that are read at a time.

    Two windows of them: the one that is read and the one that is fetched meanwhile.
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
            f"GB of remote shards at hand: raise it, or {hint}"
        )


DOWNLOADS = 4
REMEMBERED = 1024


def fetching_ahead(
    micro_batches: Iterable[range], manifest: Manifest, order: Order, cache: ShardCache, ahead: int
) -> Iterator[range]:
    """`micro_batches` unchanged, while the shards of the next `ahead` of them are downloaded.

    A failure here is no failure: whoever needs the shard meets it again, and tells.
    """
    if not any(map(is_remote, manifest.shards)):
        yield from micro_batches
        return

    def fetch(shard: int) -> None:
        with suppress(UserError):
            cache.fetch(
                manifest.shards[shard],
                size=manifest.shard_bytes[shard],
                sha256=manifest.sha256[shard],
                # The processes of a machine want the same shards at the same time: each turns to
                # one that nobody is bringing, and so they share the work.
                wait=False,
            )

    background = BackgroundThreads(DOWNLOADS, "fetch")
    asked: OrderedDict[int, None] = OrderedDict()
    upcoming: deque[range] = deque()
    try:
        for positions in micro_batches:
            samples = order(np.arange(positions.start, positions.stop)).sample
            for shard in np.unique(manifest.shard[samples]).tolist():
                if shard not in asked and is_remote(manifest.shards[shard]):
                    background.submit(fetch, shard)
                    asked[shard] = None
            while len(asked) > REMEMBERED:
                asked.popitem(last=False)  # evicted by now, perhaps, and to be asked for again
            upcoming.append(positions)
            if len(upcoming) > ahead:
                yield upcoming.popleft()
        yield from upcoming
    finally:
        background.close()
