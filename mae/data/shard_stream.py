"""Stream of shards for any training loop: exact order, elastic, resumable; `mae.ShardStream`."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from torch.utils.data import Dataset, default_collate, get_worker_info

from mae.base.device import loader_count
from mae.base.errors import RunFailed, UserError
from mae.data.batch import Batch
from mae.data.images import BadSample
from mae.data.indexing import build_manifest
from mae.data.joined_manifests import merge
from mae.data.manifest import Manifest
from mae.data.sample_views import SampleViews, Transform, TransformedViews
from mae.data.stream_settings import StreamSettings, check_settings
from mae.data.stream_state import position_of, stream_state
from mae.data.training_data import TrainingData, build_order, check_cache
from mae.data.views import PixelViews
from mae.data.worker_loader import load_in_workers
from mae.pack.packed_folders import with_packed_folders
from mae.storage.cache import build_cache

IN_DATA_LOADER = (
    "ShardStream: a loader with workers and ranks of its own, not a data set: iterate over it; no "
    "DataLoader around it, no accelerator.prepare"
)

_log = logging.getLogger(__name__)


class ShardStream:
    """Batches of shards in an order that depends on no process, worker or restart.

    ```python
    stream = mae.ShardStream("shards/*.tar", batch_size=256, img_size=224)
    for batch in stream:
        ...  # batch.images: uint8 [b c h w], batch.labels, batch.samples
        state = stream.state_dict()  # counts this batch; `load_state_dict` resumes with the next
    ```

    Iterating starts at the position that is reached, and ends after `epochs`.  It is a loader with
    workers of its own: do not wrap it in a DataLoader, and do not pass it through `prepare`.
    """

    def __init__(
        self,
        shards: str | os.PathLike | Sequence[str | os.PathLike] | Mapping[str, float],
        batch_size: int | None,
        *,
        img_size: int | tuple[int, int] | None = None,
        decode: bool = True,
        transform: Transform | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
        order: str = "global",
        seed: int = 0,
        epochs: int | None = None,
        workers: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        **further: Any,
    ) -> None:
        """Index the shards, or read their indexes.

        `shards`: paths, globs, brace patterns or addresses of WebDataset tars; {pattern: weight}
        mixes several data sets.  `batch_size`: images of a batch over all ranks; each rank gets its
        part.  None: single samples.

        `images` of a batch are, with `img_size`, random crops of that size (uint8 or, with
        bits=16, uint16 [b c h w]); without it a list of decoded images [c h w]; with decode=False a
        list of the files' bytes.  `transform` is called with each of these, its random numbers
        being functions of seed, view and sample (`TransformedViews`), and `collate` with the list
        of its results.

        `order`: global, window or lanes, as data.order, or sequential.  `workers`: loading
        processes of this rank; 0: none; None: its share of the cores (`loader_count`).  `rank` and
        `world_size` are by default those of the process group or the launcher.  `further`: last,
        timeout_minutes, and window, lanes, repeats, scale, ratio, flip, oversized, in_chans, bits,
        max_bad, index_dir, cache_dir, cache_gb and allow_pipe, as the settings of `data`.

        Raises UserError, in one line, where an argument or a shard is wrong.
        """
        arguments = {
            "shards": shards,
            "batch_size": batch_size,
            "img_size": img_size,
            "decode": decode,
            "order": order,
            "seed": seed,
            "epochs": epochs,
            "workers": workers,
            "rank": rank,
            "world_size": world_size,
        }
        self.settings = check_settings(arguments, further)
        self.position = 0
        """samples that all ranks have received together: position in the order"""
        self.bad: dict[int, str] = {}
        """bad samples that this rank met, by number, with shard, key and defect"""
        self._data = _open_data(self.settings)
        self._views = _build_views(self.settings, self._data, transform, collate)
        self._positions = self.settings.positions(self.epoch_length)
        self._iteration = object()
        if self.settings.rank == 0:
            for line in self.manifest.warnings():
                _log.warning("%s", line)

    @property
    def manifest(self) -> Manifest:
        """The samples: names, keys, labels by number."""
        return self._data.manifest

    @property
    def epoch_length(self) -> int:
        """Positions of an epoch: number of samples times `repeats`."""
        return len(self.manifest) * self.settings.repeats

    @property
    def epoch(self) -> float:
        """Epochs finished so far, 1.5 in the middle of the second."""
        return self.position / self.epoch_length

    def keys(self, batch: Batch[Any]) -> list[str]:
        """Key of each sample of a batch: its name in the tar up to the first dot."""
        return self.manifest.keys_of(batch.samples.flatten().tolist())

    def state_dict(self) -> dict[str, Any]:
        """State for JSON or a checkpoint, the same on all ranks that received as many batches."""
        return stream_state(self.position, self.manifest, self.settings.compared())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batches that `state` counts, on any number of ranks and workers.

        Raises UserError where it is of other data or other settings, or no such state.
        """
        self.position = position_of(state, self.manifest, self.settings.compared())
        self._iteration = object()

    def __len__(self) -> int:
        """Batches of this rank in `epochs` from their beginning."""
        if self.settings.epochs is None:
            raise TypeError(
                "ShardStream: no length without epochs; it is a loader: iterate over it"
            )
        return self._positions.count(self.settings.epochs * self.epoch_length)

    def __iter__(self) -> Iterator[Batch[Any]]:
        """Batches from the reached position on; ends an earlier iteration.

        Besides UserError for data that cannot be read, raises RunFailed where more than `max_bad`
        samples are bad, or a worker dies or stops.
        """
        if get_worker_info() is not None:
            raise UserError(IN_DATA_LOADER)
        self._iteration = object()
        return self._deliver(self._iteration)

    def __getitem__(self, index: object) -> None:
        raise UserError(IN_DATA_LOADER)

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"ShardStream({len(self.manifest):,} samples in {len(self.manifest.shards):,} shards, "
            f"batch {settings.batch_size}, rank {settings.rank} of {settings.world_size}, "
            f"position {self.position:,})"
        )

    def _deliver(self, iteration: object) -> Iterator[Batch[Any]]:
        settings, positions, first = self.settings, self._positions, self.position
        end = positions.end(first)
        ranges = self._data.fetched_ahead(
            settings, positions.ranges(first), positions.share, settings.world_size
        )
        workers = loader_count(settings.workers)
        loaded = load_in_workers(self._views, ranges, workers, settings.timeout_minutes)
        with closing(loaded) as batches:
            for batch in batches:
                self._note(batch.bad)
                for item in [batch] if settings.batch_size else _singles(batch):
                    self._require_current(iteration)
                    self.position = min(self.position + positions.stride, end)
                    yield item
        self._require_current(iteration)
        self.position = end

    def _require_current(self, iteration: object) -> None:
        if self._iteration is not iteration:
            raise UserError(
                "ShardStream: iterated or given a state elsewhere meanwhile: one loop at a time, "
                "and a new one after load_state_dict"
            )

    def _note(self, bad: list[BadSample]) -> None:
        """Record bad samples; RunFailed where there are more than `max_bad`."""
        for sample, reason in bad:
            if sample not in self.bad:
                self.bad[sample] = reason
                _log.warning("bad sample, another one is used instead: %s", reason)
        if len(self.bad) > self.settings.max_bad:
            raise RunFailed(
                f"ShardStream: {len(self.bad)} bad samples, more than max_bad = "
                f"{self.settings.max_bad}; the last: {list(self.bad.values())[-1]}"
            )


def _open_data(settings: StreamSettings) -> TrainingData:
    cache = build_cache(settings)
    data_sets = [part.shards for part in settings.mixture] or [settings.train]
    data_sets = [with_packed_folders(shards, "shards", settings) for shards in data_sets]
    manifest = merge(
        [build_manifest(shards, "shards", settings.index_dir, cache) for shards in data_sets]
    )
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or settings.world_size)
    try:
        order = build_order(settings, manifest, settings.seed, settings.batch_size or 1)
        check_cache(settings, manifest, min(1.0, here / settings.world_size))
    except UserError as error:  # settings are arguments here
        raise UserError(f"ShardStream: {error}".replace("data.", "")) from None
    return TrainingData(manifest, order, cache)


def _build_views(
    settings: StreamSettings,
    data: TrainingData,
    transform: Transform | None,
    collate: Callable[[list[Any]], Any],
) -> Dataset[Batch[Any] | UserError]:
    kind = PixelViews if settings.img_size else SampleViews
    size = settings.img_size or (0, 0)
    views = kind(data.manifest, data.order, settings, size, settings.in_chans, data.cache)
    if isinstance(views, SampleViews):
        views.decode = settings.decode
    if transform is None:
        return views
    return TransformedViews(views, transform, collate if settings.batch_size else list)


def _singles(batch: Batch[Any]) -> Iterator[Batch[Any]]:
    """The samples of a batch, one by one, without the first dimension."""
    for row in zip(batch.images, batch.seeds, batch.samples, batch.labels, strict=True):
        yield Batch(*row, bad=[])
