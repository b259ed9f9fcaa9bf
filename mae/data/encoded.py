"""Micro-batches whose images are still to be decoded, where the model runs."""

from typing import NamedTuple

import torch
from torch import Tensor

from mae.data.transform import View
from mae.decoding.on_device import JpegFile


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
        self.parts: list[bytes | bytearray | memoryview] = []
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
        is_jpeg = isinstance(image, JpegFile)
        part = image.data if is_jpeg else image.permute(1, 2, 0).flatten().numpy().data
        self.parts.append(part)
        self.end += len(part)
        self.table.append((self.end, height, width, is_jpeg))

    def batch(self) -> Encoded:
        """All that was added."""
        return Encoded(
            torch.frombuffer(bytearray().join(self.parts), dtype=torch.uint8),
            torch.tensor(self.table),
            torch.tensor(self.image),
            torch.tensor(self.views),
            self.channels,
        )
