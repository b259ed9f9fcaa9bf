"""Batches whose images are decoded where the model runs."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mae.data.device_crop import Crops
from mae.data.transform import View
from mae.decoding.on_device import JpegDecoder, JpegFile


class Encoded(NamedTuple):
    """A micro-batch of crops, of images that are still to be decoded."""

    data: Tensor
    """uint8: the images back to back, as JPEGs or, where no device may decode them, as pixels
    [h w c]"""
    table: Tensor
    """int64 [n 4]: where in `data` each image ends, its height and width, whether it is a JPEG"""
    image: Tensor
    """int64 [b]: the image of each crop"""
    views: Tensor
    """int64 [b 5]: top, left, height, width and flip of each crop"""
    channels: int


class Encoding:
    """Collects a micro-batch, crop by crop."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.last: Tensor | JpegFile | None = None
        self.parts: list[Tensor] = []
        self.table: list[tuple[int, int, int, bool]] = []
        self.image: list[int] = []
        self.views: list[View] = []
        self.end = 0

    def add(self, image: Tensor | JpegFile, view: View) -> None:
        """A crop of `image`, pixels [c h w] or a file; crops of one image follow each other."""
        if image is not self.last:
            self._add_image(image)
        self.last = image
        self.image.append(len(self.table) - 1)
        self.views.append(view)

    def _add_image(self, image: Tensor | JpegFile) -> None:
        _, height, width = image.shape
        if isinstance(image, JpegFile):
            part = torch.frombuffer(bytearray(image.data), dtype=torch.uint8)
        else:
            part = image.permute(1, 2, 0).flatten()
        self.parts.append(part)
        self.end += len(part)
        self.table.append((self.end, height, width, isinstance(image, JpegFile)))

    def batch(self) -> Encoded:
        """All that was added."""
        return Encoded(
            torch.cat(self.parts),
            torch.tensor(self.table),
            torch.tensor(self.image),
            torch.tensor(self.views),
            self.channels,
        )


class CropDecoder:
    """`Encoded` → `Crops` on the device, in a stream of its own beside the steps."""

    def __init__(self, device: torch.device, channels: int) -> None:
        """Raises UserError as `JpegDecoder` does."""
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.decode = JpegDecoder(device, channels)

    def __call__(self, encoded: Encoded) -> Crops | None:
        """The crops, all there; None where the device cannot decode one of the images."""
        with torch.cuda.stream(self.stream):
            images = self._images(encoded)
            if images is None:
                return None
            crops = _cut(encoded, images, self.device)
        if self.stream is not None:
            self.stream.synchronize()
        return crops

    def _images(self, encoded: Encoded) -> list[Tensor] | None:
        """[h w c] each, on the device."""
        images: list[Tensor | None] = [None] * len(encoded.table)
        files, numbers = [], []
        for number, (part, (_, height, width, is_jpeg)) in enumerate(_parts(encoded)):
            if is_jpeg:
                files.append(part.numpy())
                numbers.append(number)
            else:
                pixels = part.view(height, width, encoded.channels)
                images[number] = pixels.to(self.device, non_blocking=True)
        for number, image in zip(numbers, self.decode(files) if files else (), strict=True):
            images[number] = image
        sizes = encoded.table[:, 1:3].tolist()
        if any(
            image is None or list(image.shape) != [*size, encoded.channels]
            for image, size in zip(images, sizes, strict=True)
        ):
            return None
        return [image for image in images if image is not None]


def _parts(encoded: Encoded) -> Iterator[tuple[Tensor, list[int]]]:
    start = 0
    for row in encoded.table.tolist():
        yield encoded.data[start : row[0]], row
        start = row[0]


def _cut(encoded: Encoded, images: list[Tensor], device: torch.device) -> Crops:
    _, _, heights, widths, flips = encoded.views.unbind(1)
    areas = heights * widths * encoded.channels
    pixels = torch.empty(int(areas.sum()), dtype=torch.uint8, device=device)
    boxes: Iterable[Tensor] = pixels.split(areas.tolist())
    rows = zip(boxes, encoded.image.tolist(), encoded.views.tolist(), strict=True)
    for box, number, (top, left, height, width, _) in rows:
        part = images[number][top : top + height, left : left + width]
        box.view(height, width, encoded.channels).copy_(part)
    return Crops(pixels, heights, widths, flips.bool(), encoded.channels)
