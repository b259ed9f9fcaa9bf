"""Batches: exactly this process's slice of each global batch, from any position on."""

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mae.config import DataConfig
from mae.data.decode import decode
from mae.data.manifest import EXTENSIONS, Manifest
from mae.data.order import sample_at
from mae.data.pillow import BadImage
from mae.data.storage import ShardReader
from mae.data.transform import apply_view, center_view, random_view, stack
from mae.errors import SampleError, UserError
from mae.hashing import Stream, fold


class Batch(NamedTuple):
    """A micro-batch of one process."""

    images: Tensor
    """uint8 [b c h w]"""
    seeds: Tensor
    """int64 [b]: one random word per (run seed, epoch, sample), for the objective"""
    samples: Tensor
    """int64 [b]: numbers in the manifest"""


class Slices(NamedTuple):
    """How the stream is dealt out: global batch k is positions [k·B, (k+1)·B).

    Process r takes the r-th of `num_processes` equal parts, in `accumulation` micro-batches.
    """

    batch_size: int
    num_processes: int
    process_index: int
    accumulation: int

    @property
    def device_batch(self) -> int:
        """Images per micro-batch of a process."""
        return self.batch_size // (self.num_processes * self.accumulation)

    def micro_batches(self, first_step: int, last_step: int) -> Iterator[range]:
        """Positions of each micro-batch of the steps in [first_step, last_step)."""
        share = self.batch_size // self.num_processes
        for step in range(first_step, last_step):
            start = step * self.batch_size + self.process_index * share
            for micro in range(self.accumulation):
                yield range(
                    start + micro * self.device_batch, start + (micro + 1) * self.device_batch
                )


class Images:
    """Decoded images of a manifest, by number."""

    def __init__(self, manifest: Manifest, channels: int) -> None:
        self.manifest = manifest
        self.channels = channels
        self.reader = ShardReader(manifest)

    def __getitem__(self, sample: int) -> Tensor:
        """uint8 [c h w] as stored.  Raises SampleError, naming shard and key, for a bad image."""
        try:
            extension = EXTENSIONS[self.manifest.kind[sample]]
            return decode(self.reader.read(sample), extension, self.channels)
        except BadImage as error:
            raise SampleError(f"{self.manifest.name(sample)}: {error}") from None


class TrainingViews(Dataset):
    """Positions of the stream → Batch: the whole path from shards to uint8 crops."""

    def __init__(
        self,
        manifest: Manifest,
        config: DataConfig,
        seed: int,
        img_size: tuple[int, int],
        channels: int,
    ) -> None:
        self.images = Images(manifest, channels)
        self.config = config
        self.seed = seed
        self.img_size = img_size

    def __getitem__(self, index: range) -> Batch | UserError:
        """The batch; a UserError comes back as a value, whole, where raising would wrap it."""
        try:
            return self._batch(np.arange(index.start, index.stop))
        except UserError as error:
            return error

    def _batch(self, positions: np.ndarray) -> Batch:
        config = self.config
        epoch, samples = sample_at(self.seed, len(self.images.manifest), positions)
        views = fold(self.seed, Stream.VIEW, epoch, samples)
        crops = []
        for sample, key in zip(samples.tolist(), views.tolist(), strict=True):
            image = self.images[sample]
            height, width = image.shape[-2:]
            view = random_view(height, width, key, config.scale, config.ratio, config.flip)
            crops.append(apply_view(image, view, self.img_size))
        seeds = fold(self.seed, Stream.OBJECTIVE, epoch, samples)
        return Batch(
            stack(crops), torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(samples)
        )


class CentredViews(Dataset):
    """Ranges of sample numbers → their centred views: for evaluation."""

    def __init__(
        self, manifest: Manifest, img_size: tuple[int, int], channels: int, crop_pct: float
    ) -> None:
        self.images = Images(manifest, channels)
        self.img_size = img_size
        self.crop_pct = crop_pct

    def __len__(self) -> int:
        return len(self.images.manifest)

    def __getitem__(self, index: range) -> Tensor | UserError:
        """uint8 [len(index) c h w]; a UserError comes back as a value."""
        try:
            return stack([self.view(sample) for sample in index])
        except UserError as error:
            return error

    def view(self, sample: int) -> Tensor:
        """One centred view, uint8 [c h w].  Raises UserError for a bad image."""
        return center_view(self.images[sample], self.img_size, self.crop_pct)


def batches(dataset: Dataset, slices: list[range] | Iterator[range], workers: int) -> Iterator:
    """`dataset[s]` for each slice, in order, made ahead by `workers` processes.

    Never to be passed through `accelerator.prepare`: the slices are this process's own already.
    Raises UserError as the dataset met it.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=slices,  # pyrefly: ignore  # any iterable is a sampler
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_interrupts_to_the_parent,
        prefetch_factor=2 if workers else None,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
