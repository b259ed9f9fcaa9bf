"""Pixel counts of images by class, without the classes that an image does not have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Counts = npt.NDArray[np.int64]
"""[images classes 3] numbers of pixels: true positives, predicted, true"""

Floats = npt.NDArray[np.float64]

CELLS = 2**23
"""numbers held at a time: 64 MB"""


class ImageCounts(NamedTuple):
    """Counts of images: a row for each class of each image that is predicted or true there.

    Some 13 bytes a row, where a full table of 255 classes has 6 kB for an image.
    """

    num_classes: int
    rows: npt.NDArray[np.int32]
    """[images] number of rows of each image"""
    classes: npt.NDArray[np.uint8]
    """[m] class of each row"""
    pixels: npt.NDArray[np.int32]
    """[m 3] true positives, predicted, true"""

    @classmethod
    def of(cls, counts: Counts) -> "ImageCounts":
        """The same counts without the classes that an image does not have."""
        image, number = np.nonzero(counts.any(axis=2))
        rows = np.bincount(image, minlength=len(counts))
        pixels = counts[image, number].astype(np.int32)
        return cls(counts.shape[1], rows.astype(np.int32), number.astype(np.uint8), pixels)

    @classmethod
    def unpack(
        cls, num_classes: int, name: str, parts: Sequence[Mapping[str, npt.NDArray]]
    ) -> "ImageCounts":
        """Counts of the images of all `parts`, columns that `columns(name)` gave."""
        found = ([part[f"{name}/{field}"] for part in parts] for field in cls._fields[1:])
        rows, classes, pixels = (np.concatenate(arrays) for arrays in found)
        return cls(num_classes, rows, classes, pixels)

    def columns(self, name: str) -> dict[str, npt.NDArray]:
        """Arrays to store, whose names begin with `name`."""
        fields = zip(self._fields[1:], self[1:], strict=True)
        return {f"{name}/{field}": values for field, values in fields}

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.rows)

    def total(self) -> Counts:
        """Sums over the images [classes 3]."""
        sums = [
            np.bincount(self.classes, weights=self.pixels[:, column], minlength=self.num_classes)
            for column in range(3)
        ]  # exact: whole numbers below 2**53
        return np.stack(sums, axis=1).astype(np.int64)

    def images_with(self) -> npt.NDArray[np.int64]:
        """Number of images that truly have each class [classes]."""
        true = self.classes[self.pixels[:, 2] > 0]
        return np.bincount(true, minlength=self.num_classes)

    def blocks(self) -> Iterator[Counts]:
        """Full tables of some images at a time, in order."""
        ends = self.rows.cumsum(dtype=np.int64)
        size = max(1, CELLS // (3 * self.num_classes))
        for start in range(0, self.images, size):
            rows = self.rows[start : start + size]
            first, last = ends[start] - self.rows[start], ends[start + len(rows) - 1]
            table = np.zeros((len(rows), self.num_classes, 3), np.int64)
            image = np.repeat(np.arange(len(rows)), rows)
            table[image, self.classes[first:last]] = self.pixels[first:last]
            yield table

    def weighted(self, weights: npt.NDArray[np.uint8]) -> Floats:
        """Sums over the images, with each of the `weights` [r images]; [r classes 3]."""
        entries = 3 * self.classes[:, None].astype(np.int32) + np.arange(3, dtype=np.int32)
        ends = 3 * np.concatenate([[0], self.rows.cumsum(dtype=np.int64)])
        table = csr_array(
            (self.pixels.ravel().astype(np.float64), entries.ravel(), ends),
            shape=(self.images, 3 * self.num_classes),
        )
        size = max(1, CELLS // max(1, self.images))
        sums = [
            weights[start : start + size].astype(np.float64) @ table
            for start in range(0, len(weights), size)
        ]
        return np.concatenate(sums).reshape(len(weights), self.num_classes, 3)
