"""Codecs to compare with: JPEG, WebP and AVIF by Pillow, and patch PCA with the same tables."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from mae.compression.range_coder import TOTAL
from mae.compression.results import Values
from mae.compression.tables import Counts, smoothed

SCAN = b"\xff\xda"
"""marker before the compressed data of a JPEG file"""
PATCH = 8
"""side of the patches of the PCA coder"""
MOST_PATCHES = 50_000
"""maximum number of patches that it is fitted on"""
STEPS = (320, 224, 160, 112, 80, 56, 40, 28, 20, 14, 10)
"""steps of its quantiser, of 255"""


class Measured(NamedTuple):
    """An image after a codec."""

    pixels: Values
    """[h w c]"""
    payload: float
    """bytes, without what each file has"""
    whole: float
    """bytes of the file"""


class Other(ABC):
    """A codec with settings from small files to large ones."""

    name: ClassVar[str]
    settings: Sequence[float]

    @abstractmethod
    def holds(self, truth: Values) -> bool:
        """True for images that it can compress."""

    @abstractmethod
    def measure(self, truth: Values, setting: float) -> Measured:
        """Compress and decompress an image [h w c]."""

    def words(self, setting: float) -> str:
        """Setting, for tables."""
        return f"quality {setting:g}"


class PillowCodec(Other):
    """A format of Pillow, for 8 bits and one or three channels."""

    format: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    def holds(self, truth: Values) -> bool:
        """True for 8 bits and one or three channels."""
        return truth.dtype == np.uint8 and truth.shape[2] in (1, 3)

    def measure(self, truth: Values, setting: float) -> Measured:
        """Compress and decompress an image [h w c]."""
        file, gray = io.BytesIO(), truth.shape[2] == 1
        image = Image.fromarray(truth[..., 0] if gray else truth)
        image.save(file, self.format, quality=int(setting), **self.options)
        data = file.getvalue()
        with Image.open(io.BytesIO(data)) as opened:
            made = np.array(opened.convert("L" if gray else "RGB"))
        return Measured(made[..., None] if gray else made, self.payload(data), len(data))

    @abstractmethod
    def payload(self, data: bytes) -> int:
        """Bytes of compressed pixels in a file."""


class Jpeg(PillowCodec):
    """JPEG with optimised Huffman tables."""

    name, format = "JPEG", "JPEG"
    settings = (1, 5, 10, 20, 35, 50, 70, 85, 95)
    options: ClassVar[dict[str, Any]] = {"optimize": True}

    def payload(self, data: bytes) -> int:
        """From the last scan's marker: tables are not counted."""
        return len(data) - data.index(SCAN)


class WebP(PillowCodec):
    """Lossy WebP."""

    name, format = "WebP", "WEBP"
    settings = (0, 5, 15, 30, 50, 70, 85, 95)
    options: ClassVar[dict[str, Any]] = {"method": 6}

    def payload(self, data: bytes) -> int:
        """Content of the chunk `VP8 `."""
        place = 12
        while place + 8 <= len(data):
            size = int.from_bytes(data[place + 4 : place + 8], "little")
            if data[place : place + 4] == b"VP8 ":
                return size
            place += 8 + size + size % 2
        return len(data)


class Avif(PillowCodec):
    """AVIF."""

    name, format = "AVIF", "AVIF"
    settings = (2, 10, 20, 35, 50, 65, 80, 92)

    def payload(self, data: bytes) -> int:
        """Content of the boxes `mdat`."""
        place, found = 0, 0
        while place + 8 <= len(data):
            size = int.from_bytes(data[place : place + 4], "big")
            if data[place + 4 : place + 8] == b"mdat":
                found += (size or len(data) - place) - 8
            if size < 8:
                break
            place += size
        return found or len(data)


def pillow_codecs() -> list[Other]:
    """Formats that this Pillow writes, by falling age."""
    found: list[Other] = [Jpeg()]
    return found + [
        codec() for name, codec in (("webp", WebP), ("avif", Avif)) if features.check(name)
    ]


class PcaCodec(Other):
    """Principal components of patches, rounded to multiples of a step, with tables of integers.

    Components and frequencies are those of training images.  The rate is the ideal length by the
    tables, from which the range coder differs by a few bytes.
    """

    name = "PCA coder"
    settings = STEPS

    def __init__(self, training: Sequence[Values]) -> None:
        """`training`: images [h w c] of one kind."""
        self.colours, self.white = training[0].shape[2], np.iinfo(training[0].dtype).max
        most = max(1, MOST_PATCHES // len(training))
        rows = np.concatenate([spread(self._patches(one), most) for one in training])
        self.mean = rows.mean(0)
        _, vectors = np.linalg.eigh(np.cov(rows - self.mean, rowvar=False))
        self.basis = vectors.T[::-1]
        self.numbers = (rows - self.mean) @ self.basis.T
        self.tables: dict[float, tuple[npt.NDArray[np.int64], list[Counts]]] = {}

    def holds(self, truth: Values) -> bool:
        """True for images of the training images' channels and bits."""
        return truth.shape[2] == self.colours and np.iinfo(truth.dtype).max == self.white

    def words(self, setting: float) -> str:
        """Step of the quantiser, for tables."""
        return f"step {setting:g} of 255"

    def measure(self, truth: Values, setting: float) -> Measured:
        """Compress and decompress an image [h w c]."""
        most, tables = self._fitted(setting)
        step, (height, width, _) = setting / 255, truth.shape
        codes = np.rint((self._patches(truth) - self.mean) @ self.basis.T / step).astype(np.int64)
        codes = codes.clip(-most, most)
        bits = -sum(
            np.log2(table[own + top] / TOTAL).sum()
            for own, top, table in zip(codes.T, most, tables, strict=True)
        )
        rows, columns = -(-height // PATCH), -(-width // PATCH)
        made = (codes * step) @ self.basis + self.mean
        made = made.reshape(rows, columns, PATCH, PATCH, self.colours).transpose(0, 2, 1, 3, 4)
        made = made.reshape(rows * PATCH, columns * PATCH, self.colours)[:height, :width]
        pixels = (made.clip(0, 1) * self.white).round().astype(truth.dtype)
        return Measured(pixels, bits / 8, bits / 8)

    def _fitted(self, setting: float) -> tuple[npt.NDArray[np.int64], list[Counts]]:
        """Largest number and frequencies of each component, by the training images."""
        if setting not in self.tables:
            codes = np.rint(self.numbers / (setting / 255)).astype(np.int64)
            most = np.abs(codes).max(0)
            most += most // 4 + 1  # other images may have larger ones
            counts = [
                np.bincount(own + top, minlength=2 * top + 1)
                for own, top in zip(codes.T, most, strict=True)
            ]
            self.tables[setting] = most, [smoothed(one) for one in counts]
        return self.tables[setting]

    def _patches(self, image: Values) -> npt.NDArray[np.float64]:
        """Patches [n d] in [0, 1]; sides are continued by their last pixels."""
        height, width, colours = image.shape
        filled = np.pad(image, ((0, -height % PATCH), (0, -width % PATCH), (0, 0)), mode="edge")
        rows, columns = filled.shape[0] // PATCH, filled.shape[1] // PATCH
        grid = filled.reshape(rows, PATCH, columns, PATCH, colours).transpose(0, 2, 1, 3, 4)
        return grid.reshape(rows * columns, -1) / self.white


def spread(rows: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """Up to `most` rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
