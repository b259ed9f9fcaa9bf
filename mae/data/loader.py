"""Batches: exactly this process's slice of each global batch, from any position on."""

from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import DataConfig
from mae.data.device_crop import Crops, pack_crops
from mae.data.encoded import Encoded, Encoding
from mae.data.images import BadSample, Image, Images, usable_image
from mae.data.manifest import Manifest
from mae.data.order import Order
from mae.data.transform import (
    Augment,
    View,
    apply_view_into,
    center_view,
    draw_views,
    random_view,
    stack,
)
from mae.decoding.on_device import JpegFile
from mae.storage.cache import ShardCache

BY_THE_CPU = {"crop_on_device": False, "decode_on_device": False}
"""settings of DataConfig by which images of a Batch are pixels"""


class Batch(NamedTuple):
    """A micro-batch of one process."""

    images: Tensor | Crops | Encoded
    """uint8 or uint16 [b c h w], or what the device makes them from"""
    seeds: Tensor
    """int64 [b]: one random word per (run seed, view, sample), for the objective"""
    samples: Tensor
    """int64 [b]: numbers in the manifest"""
    labels: Tensor
    """int64 [b]: classes; NO_LABEL where a sample has none"""
    bad: list[BadSample]
    """samples that could not be used, and were replaced"""


class BatchSharding(NamedTuple):
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

    def micro_batches(
        self, first_step: int, last_step: int, skipped: Container[int] = ()
    ) -> Iterator[range]:
        """Positions of each micro-batch of the steps in [first_step, last_step), from 0.

        `skipped` counts them from 1.
        """
        share = self.batch_size // self.num_processes
        for step in range(first_step, last_step):
            if step + 1 in skipped:
                continue
            start = step * self.batch_size + self.process_index * share
            for micro in range(self.accumulation):
                yield range(
                    start + micro * self.device_batch, start + (micro + 1) * self.device_batch
                )


def step_names(manifest: Manifest, order: Order, step: int, batch_size: int) -> list[str]:
    """`shard: key KEY` of all samples of the step that ends with `step` steps done."""
    place = order(np.arange((step - 1) * batch_size, step * batch_size))
    return [manifest.name(sample) for sample in place.sample.tolist()]


class TrainingViews(Dataset):
    """Positions of the stream → Batch: the whole path from shards to crops."""

    def __init__(
        self,
        manifest: Manifest,
        order: Order,
        config: DataConfig,
        img_size: tuple[int, int],
        channels: int,
        cache: ShardCache | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.augment = augment
        self.images = Images(manifest, channels, config.bits, cache)
        self.order = order
        self.config = config
        self.img_size = img_size

    def __getitem__(self, index: range) -> Batch | UserError:
        """The batch; a UserError comes back as a value, whole, where raising would wrap it."""
        try:
            return self.stored(index) if self.config.decode_on_device else self._decoded(index)
        except UserError as error:
            return error

    def _decoded(self, index: range) -> Batch:
        crops = _Boxes() if self.config.crop_on_device else _Pixels(len(index), self.img_size)
        return self._batch(index, self.images.__getitem__, crops.add, crops.batch)

    def stored(self, index: range, by_cpu: Container[int] = ()) -> Batch:
        """The batch with images for a device to decode, but for the samples `by_cpu`.

        Raises UserError.
        """

        def read(sample: int) -> Tensor | JpegFile:
            return self.images[sample] if sample in by_cpu else self.images.stored(sample)

        images = Encoding(self.images.channels)
        return self._batch(index, read, images.add, images.batch)

    def _batch(
        self,
        index: range,
        read: Callable[[int], Image],
        add: Callable[[Image, View], None],
        collected: Callable[[], Tensor | Crops | Encoded],
    ) -> Batch:
        positions = np.arange(index.start, index.stop)
        config, seed = self.config, self.order.seed
        place = self.order(positions)
        draws = draw_views(fold(seed, Stream.VIEW, place.view, place.sample))
        samples: list[int] = []
        bad: list[BadSample] = []
        rows = zip(place.sample.tolist(), place.view.tolist(), draws.tolist(), strict=True)
        wanted, usable = (-1, -1), None
        for sample, view, drawn in rows:
            epoch = view // config.repeats
            if usable is None or (sample, epoch) != wanted:  # views of one image follow each other
                wanted = (sample, epoch)
                usable = usable_image(read, self.images.manifest, sample, seed, epoch)
                bad += usable.bad
            samples.append(usable.sample)
            _, height, width = usable.image.shape
            crop = random_view(height, width, drawn, config.scale, config.ratio, config.flip)
            add(usable.image, crop)
        images = collected()
        if self.augment is not None and isinstance(images, Tensor):
            keys = fold(seed, Stream.AUGMENT, place.view, place.sample)
            for row, key in zip(images, keys.tolist(), strict=True):
                row.copy_(self.augment(row, key))
        seeds = fold(seed, Stream.OBJECTIVE, place.view, place.sample)
        return Batch(
            images,
            as_tensor(seeds),
            torch.tensor(samples),
            torch.from_numpy(self.images.manifest.label[samples].astype(np.int64)),
            bad,
        )


class _Pixels:
    """Crops made here, each written into its row of the batch."""

    def __init__(self, count: int, img_size: tuple[int, int]) -> None:
        self.count, self.img_size = count, img_size
        self.rows: Tensor | None = None
        self.empty: Iterator[Tensor] = iter(())

    def add(self, image: Tensor, view: View) -> None:
        if self.rows is None:
            self.rows = image.new_empty(self.count, len(image), *self.img_size)
            self.empty = iter(self.rows.unbind())
        apply_view_into(image, view, next(self.empty))

    def batch(self) -> Tensor:
        assert self.rows is not None
        return self.rows


class _Boxes:
    """Crops left to the device: only their pixels are copied here."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.views: list[View] = []

    def add(self, image: Tensor, view: View) -> None:
        top, left, height, width, flip = view
        part = image[:, top : top + height, left : left + width]
        self.parts.append(part.clone(memory_format=torch.preserve_format))
        self.views.append(View(0, 0, height, width, flip))

    def batch(self) -> Crops:
        return pack_crops(self.parts, self.views)


class CentredViews(Dataset):
    """Ranges of sample numbers → their centred views: for evaluation."""

    def __init__(self, images: Images, img_size: tuple[int, int], crop_pct: float) -> None:
        self.images = images
        self.img_size = img_size
        self.crop_pct = crop_pct

    def __len__(self) -> int:
        return len(self.images.manifest)

    def __getitem__(self, index: range) -> Tensor | UserError:
        """uint8 or uint16 [len(index) c h w]; a UserError comes back as a value."""
        try:
            return stack([self.view(sample) for sample in index])
        except UserError as error:
            return error

    def view(self, sample: int) -> Tensor:
        """One centred view, [c h w].  Raises UserError for a bad image."""
        return center_view(self.images[sample], self.img_size, self.crop_pct)
