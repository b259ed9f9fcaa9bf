"""Datasets of views: random crops for training, centred crops for evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator
from typing import Generic

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import DataConfig
from mae.data.batch import Batch, Crops, EncodedCrops, Pixels
from mae.data.device_crop import pack_crops
from mae.data.images import BadSample, Image, Images, usable_image
from mae.data.manifest import Manifest
from mae.data.order import Order, Place
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


class TrainingViews(ABC, Dataset[Batch[Pixels] | UserError], Generic[Pixels]):
    """Dataset of micro-batches: range of positions → shards read, images decoded, random crops."""

    def __init__(
        self,
        manifest: Manifest,
        order: Order,
        config: DataConfig,
        img_size: tuple[int, int],
        channels: int,
        cache: ShardCache | None = None,
    ) -> None:
        self.images = Images(manifest, channels, config.bits, cache)
        self.order = order
        self.config = config
        self.img_size = img_size

    def __getitem__(self, index: range) -> Batch[Pixels] | UserError:
        """The batch, or the UserError as a value: raised in a worker, torch would wrap it."""
        try:
            return self.batch(index)
        except UserError as error:
            return error

    @abstractmethod
    def batch(self, index: range) -> Batch[Pixels]:
        """The batch of the positions `index`; raises UserError."""

    def _place(self, index: range) -> Place:
        return self.order(np.arange(index.start, index.stop))

    def _batch(
        self,
        place: Place,
        read: Callable[[int], Image],
        add: Callable[[Image, View], None],
        collected: Callable[[], Pixels],
    ) -> Batch[Pixels]:
        """Build a batch: `read` each image, crop it by `add`, assemble the crops by `collected`."""
        config, seed = self.config, self.order.seed
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
            crop = random_view(
                height,
                width,
                draws=drawn,
                scale=config.scale,
                ratio=config.ratio,
                flip=config.flip,
                clamp=config.oversized == "clamp",
            )
            add(usable.image, crop)
        seeds = fold(seed, Stream.OBJECTIVE, place.view, place.sample)
        return Batch(
            images=collected(),
            seeds=as_tensor(seeds),
            samples=torch.tensor(samples),
            labels=torch.from_numpy(self.images.manifest.label[samples].astype(np.int64)),
            bad=bad,
        )


class PixelViews(TrainingViews[Tensor]):
    """Crops decoded, resized and augmented on the CPU."""

    augment: Augment | None = None
    """applied to each crop"""

    def batch(self, index: range) -> Batch[Tensor]:
        """uint8 or uint16 images [b c h w]; raises UserError."""
        crops, place = _ResizedCrops(len(index), self.img_size), self._place(index)
        batch = self._batch(place, self.images.__getitem__, crops.add, crops.collected)
        if self.augment is not None:
            keys = fold(self.order.seed, Stream.AUGMENT, place.view, place.sample)
            for row, key in zip(batch.images, keys.tolist(), strict=True):
                row.copy_(self.augment(row, key))
        return batch


class CropViews(TrainingViews[Crops]):
    """Crops decoded on the CPU, to be resized on the device."""

    def batch(self, index: range) -> Batch[Crops]:
        """The crop boxes at their own sizes; raises UserError."""
        crops = _CropBoxes()
        return self._batch(self._place(index), self.images.__getitem__, crops.add, crops.collected)


class EncodedViews(TrainingViews[EncodedCrops]):
    """Crops to be decoded and resized on the device."""

    def batch(self, index: range, by_cpu: Container[int] = ()) -> Batch[EncodedCrops]:
        """The image files and crop boxes; the samples in `by_cpu` are decoded here.

        Raises UserError.
        """

        def read(sample: int) -> Tensor | JpegFile:
            return self.images[sample] if sample in by_cpu else self.images.stored(sample)

        crops = _ImageFiles(self.images.channels)
        return self._batch(self._place(index), read, crops.add, crops.collected)


def build_training_views(
    manifest: Manifest,
    order: Order,
    config: DataConfig,
    img_size: tuple[int, int],
    channels: int,
    cache: ShardCache | None = None,
    augment: Augment | None = None,
) -> PixelViews | CropViews | EncodedViews:
    """The views by crop_on_device and decode_on_device; `augment` is applied on the CPU only."""
    source = (manifest, order, config, img_size, channels, cache)
    if config.decode_on_device:
        return EncodedViews(*source)
    if config.crop_on_device:
        return CropViews(*source)
    views = PixelViews(*source)
    views.augment = augment
    return views


class CentredViews(Dataset[Tensor | UserError]):
    """Ranges of sample numbers → centred views, for evaluation."""

    def __init__(self, images: Images, img_size: tuple[int, int], crop_pct: float | None) -> None:
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


class _ResizedCrops:
    """Crops resized here, each into its row of the batch."""

    def __init__(self, count: int, img_size: tuple[int, int]) -> None:
        self.count, self.img_size = count, img_size
        self.rows: Tensor | None = None
        self.empty: Iterator[Tensor] = iter(())

    def add(self, image: Tensor, view: View) -> None:
        if self.rows is None:
            self.rows = image.new_empty(self.count, len(image), *self.img_size)
            self.empty = iter(self.rows.unbind())
        apply_view_into(image, view, next(self.empty))

    def collected(self) -> Tensor:
        assert self.rows is not None
        return self.rows


class _CropBoxes:
    """Pixels of the crop boxes, copied without resizing."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.views: list[View] = []

    def add(self, image: Tensor, view: View) -> None:
        top, left, height, width, flip = view
        part = image[:, top : top + height, left : left + width]
        self.parts.append(part.clone(memory_format=torch.preserve_format))
        self.views.append(View(0, 0, height, width, flip))

    def collected(self) -> Crops:
        return pack_crops(self.parts, self.views)


class _ImageFiles:
    """Image files back to back, and the crop boxes in them."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.last: Tensor | JpegFile | None = None
        self.parts: list[bytes | bytearray | memoryview] = []
        self.table: list[tuple[int, int, int, bool]] = []
        self.image: list[int] = []
        self.views: list[View] = []
        self.end = 0

    def add(self, image: Tensor | JpegFile, view: View) -> None:
        """Add a crop of `image`, pixels [c h w] or a file; crops of one image are consecutive."""
        if image is not self.last:
            self._add_image(image)
        self.last = image
        self.image.append(len(self.table) - 1)
        self.views.append(view)

    def _add_image(self, image: Tensor | JpegFile) -> None:
        _, height, width = image.shape
        is_jpeg = isinstance(image, JpegFile)
        part = image.data if is_jpeg else image.permute(1, 2, 0).flatten().numpy().data
        self.parts.append(part)
        self.end += len(part)
        self.table.append((self.end, height, width, is_jpeg))

    def collected(self) -> EncodedCrops:
        return EncodedCrops(
            data=torch.frombuffer(bytearray().join(self.parts), dtype=torch.uint8),
            table=torch.tensor(self.table),
            image=torch.tensor(self.image),
            views=torch.tensor(self.views),
            channels=self.channels,
        )
