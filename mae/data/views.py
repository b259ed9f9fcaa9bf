"""Datasets of views: random crops for training, centred crops for evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mae.base.errors import UserError
from mae.base.hashing import Stream, fold
from mae.base.tensor_hashing import as_tensor
from mae.config.sections import Config, DataConfig
from mae.data.batch import Batch, Crops, EncodedCrops, Pixels
from mae.data.device_crop import pack_crops
from mae.data.images import (
    NO_NEEDS,
    BadSample,
    Image,
    Images,
    Normalisation,
    UsableImage,
    float_normalisation,
    require_covers,
    usable_image,
)
from mae.data.manifest import Manifest
from mae.data.order import Order, Place
from mae.data.transform import (
    Augment,
    View,
    apply_view_into,
    center_crop,
    center_view,
    draw_views,
    native_view,
    random_view,
    stack,
)
from mae.decoding.on_device import JpegFile
from mae.objectives.declaration import DataNeeds
from mae.objectives.registry import data_needs
from mae.storage.cache import ShardCache

Shaped = TypeVar("Shaped", bound=Tensor | JpegFile)


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
        needs: DataNeeds = NO_NEEDS,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.images = Images(manifest, channels, config.bits, cache, needs, normalisation)
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
        return self.order(np.asarray(index))

    def _usable(self, place: Place, read: Callable[[int], Image]) -> Iterator[UsableImage[Image]]:
        """Yield the usable image of each position; `read` is called once for views in a row."""
        wanted, usable = (-1, -1), None
        for sample, view in zip(place.sample.tolist(), place.view.tolist(), strict=True):
            epoch = view // self.config.repeats
            if usable is None or (sample, epoch) != wanted:
                wanted = (sample, epoch)
                manifest, seed = self.images.manifest, self.order.seed
                usable = usable_image(read, manifest, sample, seed, epoch)
                yield usable
            else:
                yield usable._replace(bad=[])

    def _joined(
        self, place: Place, samples: list[int], bad: list[BadSample], images: Any
    ) -> Batch[Any]:
        """Batch of `images`, which show `samples` at the positions of `place`."""
        seeds = fold(self.order.seed, Stream.OBJECTIVE, place.view, place.sample)
        return Batch(
            images=images,
            seeds=as_tensor(seeds),
            samples=torch.tensor(samples),
            labels=torch.from_numpy(self.images.manifest.label[samples].astype(np.int64)),
            bad=bad,
        )

    def _batch(
        self,
        place: Place,
        read: Callable[[int], Shaped],
        add: Callable[[Shaped, View], None],
        collected: Callable[[], Pixels],
    ) -> Batch[Pixels]:
        """Build a batch: `read` each image, crop it by `add`, assemble the crops by `collected`."""
        samples: list[int] = []
        bad: list[BadSample] = []
        draws = draw_views(fold(self.order.seed, Stream.VIEW, place.view, place.sample))
        for usable, drawn in zip(self._usable(place, read), draws.tolist(), strict=True):
            samples.append(usable.sample)
            bad += usable.bad
            _, height, width = usable.image.shape
            add(usable.image, self._view(height, width, drawn))
        return self._joined(place, samples, bad, collected())

    def _view(self, height: int, width: int, draws: Sequence[float]) -> View:
        """Random view of an image, from one row of `draw_views`."""
        config, needs = self.config, self.images.needs
        if needs.native_crops:
            turns = needs.quarter_turns
            return native_view(height, width, draws, self.img_size, config.flip, turns)
        return random_view(
            height,
            width,
            draws=draws,
            scale=config.scale,
            ratio=config.ratio,
            flip=config.flip,
            clamp=config.oversized == "clamp",
        )


class PixelViews(TrainingViews[Tensor]):
    """Crops decoded, resized and augmented on the CPU."""

    augment: Augment | None = None
    """applied to each crop"""

    def batch(self, index: range) -> Batch[Tensor]:
        """uint8 or uint16 images [b c h w]; raises UserError."""
        crops, place = _ResizedCrops(len(index), self.img_size), self._place(index)
        read = partial(self.images.covering, size=self.img_size)
        batch = self._batch(place, read, crops.add, crops.collected)
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
    needs: DataNeeds = NO_NEEDS,
) -> PixelViews | CropViews | EncodedViews:
    """The views by crop_on_device and decode_on_device; `augment` is applied on the CPU only."""
    normalisation = float_normalisation(config)
    source = (manifest, order, config, img_size, channels, cache, needs, normalisation)
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
        image = self.images.covering(sample, self.img_size)
        if self.images.needs.native_crops:
            return center_crop(image, self.img_size)
        return center_view(image, self.img_size, self.crop_pct)


def evaluation_view(image: Tensor, img_size: tuple[int, int], config: Config) -> Tensor:
    """Centred view [c *img_size] of a decoded image [c h w], by the settings of a run.

    Raises SampleError for an image that is too small for a crop without resizing.
    """
    if data_needs(config).native_crops:
        require_covers(image.shape[-2:], img_size, "image")
        return center_crop(image, img_size)
    return center_view(image, img_size, config.data.crop_pct)


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
        top, left, height, width, flip = view[:5]
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
        self.views: list[tuple[int, ...]] = []
        self.end = 0

    def add(self, image: Tensor | JpegFile, view: View) -> None:
        """Add a crop of `image`, pixels [c h w] or a file; crops of one image are consecutive."""
        if image is not self.last:
            self._add_image(image)
        self.last = image
        self.image.append(len(self.table) - 1)
        self.views.append(view[:5])

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
