"""Batches whose images the device has decoded, one ahead of the loop."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from mae.data.device_crop import Crops
from mae.data.encoded import Encoded
from mae.data.loader import Batch, TrainingViews
from mae.decoding.on_device import JpegDecoder


class Decoded(NamedTuple):
    """What a device made of a micro-batch."""

    crops: Crops | None
    """on the device; None where it could not decode all images"""
    refused: list[int]
    """those images, by their row in Encoded.table"""


class CropDecoder:
    """`Encoded` → `Crops` on the device, in a stream of its own beside the steps."""

    def __init__(self, device: torch.device, channels: int) -> None:
        """Raises UserError as `JpegDecoder` does."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.decode = JpegDecoder(device, channels)

    def __call__(self, encoded: Encoded) -> Decoded:
        """The crops, all there when this returns.  Raises UserError as `JpegDecoder` does."""
        with torch.cuda.stream(self.stream):
            images = self._images(encoded)
            refused = [number for number, image in enumerate(images) if image is None]
            crops = None if refused else _cut(encoded, images, self.device)
        if self.stream is not None:
            self.stream.synchronize()
        return Decoded(crops, refused)

    def _images(self, encoded: Encoded) -> list[Tensor | None]:
        """[h w c] each, on the device; None where there is none of the size its header told."""
        images: list[Tensor | None] = [None] * len(encoded.table)
        files, wanted = [], []
        for number, (part, height, width, is_jpeg) in enumerate(_parts(encoded)):
            if is_jpeg:
                files.append(part.numpy())
                wanted.append((number, [height, width, encoded.channels]))
            else:
                pixels = part.view(height, width, encoded.channels)
                images[number] = pixels.to(self.device, non_blocking=True)
        for (number, shape), image in zip(wanted, self.decode(files), strict=True):
            if image is not None and list(image.shape) == shape:
                images[number] = image
        return images


def _parts(encoded: Encoded) -> Iterator[tuple[Tensor, int, int, bool]]:
    start = 0
    for end, height, width, is_jpeg in encoded.table.tolist():
        yield encoded.data[start:end], height, width, bool(is_jpeg)
        start = end


def _cut(encoded: Encoded, images: list[Tensor | None], device: torch.device) -> Crops:
    _, _, heights, widths, flips = encoded.views.unbind(1)
    areas = heights * widths * encoded.channels
    pixels = torch.empty(int(areas.sum()), dtype=torch.uint8, device=device)
    rows = zip(
        pixels.split(areas.tolist()), encoded.image.tolist(), encoded.views.tolist(), strict=True
    )
    for box, number, (top, left, height, width, _) in rows:
        image = images[number]
        assert image is not None
        part = image[top : top + height, left : left + width]
        box.view(height, width, encoded.channels).copy_(part)
    return Crops(pixels, heights, widths, flips.bool(), encoded.channels)


def _samples_of(batch: Batch, images: list[int]) -> set[int]:
    """Samples of some of the images of a batch that is encoded."""
    assert isinstance(batch.images, Encoded)
    rows = zip(batch.images.image.tolist(), batch.samples.tolist(), strict=True)
    return {sample for image, sample in rows if image in images}


def decoded_batches(
    made: Generator[Batch],
    positions: Iterable[range],
    views: TrainingViews,
    decoder: CropDecoder,
) -> Generator[Batch]:
    """The batches `made` of `positions`, each decoded while the loop is busy with the one before.

    An image that the device refuses is decoded by the CPU, which names and replaces it if it is
    bad.  Raises as `made` and `decoder` do.
    """

    def decode(batch: Batch) -> Future[Decoded]:
        assert isinstance(batch.images, Encoded)
        return pool.submit(decoder, batch.images)

    def finish(index: range, batch: Batch, coming: Future[Decoded]) -> Batch:
        found, by_cpu = coming.result(), set[int]()
        while found.crops is None:
            by_cpu |= _samples_of(batch, found.refused)
            batch = views.stored(index, by_cpu)
            found = decode(batch).result()
        return batch._replace(images=found.crops)

    # One thread, since nobody says that the decoder may serve two.
    with ThreadPoolExecutor(1, "decode") as pool, closing(made):
        ahead = None
        for index, batch in zip(positions, made, strict=True):
            coming = decode(batch)
            if ahead is not None:
                yield finish(*ahead)
            ahead = index, batch, coming
        if ahead is not None:
            yield finish(*ahead)
