"""JPEG decoding on the device, one batch ahead of the training loop."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from mae.data.batch import Batch, Crops, EncodedCrops
from mae.data.views import EncodedViews
from mae.decoding.on_device import JpegDecoder


class DecodedCrops(NamedTuple):
    """The crops of a micro-batch, or the images that the device could not decode."""

    crops: Crops | None
    """crops on the device; None where it could not decode all images"""
    refused: list[int]
    """the images it could not decode, as rows of EncodedCrops.table"""


class CropDecoder:
    """`EncodedCrops` → `Crops` on the device, in a CUDA stream of its own beside the steps."""

    def __init__(self, device: torch.device, channels: int) -> None:
        """Raises UserError as `JpegDecoder` does."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.decode = JpegDecoder(device, channels)

    def __call__(self, encoded: EncodedCrops) -> DecodedCrops:
        """The crops, complete when this returns.  Raises UserError as `JpegDecoder` does."""
        with torch.cuda.stream(self.stream):
            images = self._images(encoded)
            refused = [number for number, image in enumerate(images) if image is None]
            crops = None if refused else _cut(encoded, images, self.device)
        if self.stream is not None:
            self.stream.synchronize()
        return DecodedCrops(crops, refused)

    def _images(self, encoded: EncodedCrops) -> list[Tensor | None]:
        """[h w c] each, on the device; None where refused or of another size than its header's."""
        images: list[Tensor | None] = [None] * len(encoded.table)
        files, expected = [], []
        for number, (part, height, width, is_jpeg) in enumerate(_parts(encoded)):
            if is_jpeg:
                files.append(part.numpy())
                expected.append((number, [height, width, encoded.channels]))
            else:
                pixels = part.view(height, width, encoded.channels)
                images[number] = pixels.to(self.device, non_blocking=True)
        for (number, shape), image in zip(expected, self.decode(files), strict=True):
            if image is not None and list(image.shape) == shape:
                images[number] = image
        return images


def decoded_on_device(
    encoded: Generator[Batch[EncodedCrops]],
    positions: Iterable[range],
    views: EncodedViews,
    decoder: CropDecoder,
) -> Generator[Batch[Crops]]:
    """The batches `encoded` of `positions`, each decoded while the loop computes the one before.

    An image that the device refuses is decoded on the CPU, which names and replaces it if it is
    bad.  Raises as `encoded` and `decoder` do.
    """

    def finish(
        index: range, batch: Batch[EncodedCrops], decoding: Future[DecodedCrops]
    ) -> Batch[Crops]:
        decoded, by_cpu = decoding.result(), set[int]()
        while decoded.crops is None:
            by_cpu |= _samples_of(batch, decoded.refused)
            batch = views.batch(index, by_cpu)
            decoded = pool.submit(decoder, batch.images).result()
        return Batch(
            images=decoded.crops,
            seeds=batch.seeds,
            samples=batch.samples,
            labels=batch.labels,
            bad=batch.bad,
        )

    # One thread: the decoder is not documented to be thread-safe.
    with ThreadPoolExecutor(1, "decode") as pool, closing(encoded):
        previous = None
        for index, batch in zip(positions, encoded, strict=True):
            decoding = pool.submit(decoder, batch.images)
            if previous is not None:
                yield finish(*previous)
            previous = index, batch, decoding
        if previous is not None:
            yield finish(*previous)


def _parts(encoded: EncodedCrops) -> Iterator[tuple[Tensor, int, int, bool]]:
    start = 0
    for end, height, width, is_jpeg in encoded.table.tolist():
        yield encoded.data[start:end], height, width, bool(is_jpeg)
        start = end


def _cut(encoded: EncodedCrops, images: list[Tensor | None], device: torch.device) -> Crops:
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


def _samples_of(batch: Batch[EncodedCrops], images: list[int]) -> set[int]:
    """The samples whose crops are cut from `images`, rows of the table."""
    rows = zip(batch.images.image.tolist(), batch.samples.tolist(), strict=True)
    return {sample for image, sample in rows if image in images}
