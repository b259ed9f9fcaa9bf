"""Thumbnails of a page, packed into sheets so that near ones on the map are on the same sheet."""

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling

from mae.base.errors import UserError
from mae.base.progress import Progress
from mae.decoding.pillow import open_image
from mae.decoding.pixels import BadImage
from mae.explore.table import Floats, Table, stream

SHEET = 1024
"""side of a sheet in pixels"""
BLOCK = 16
"""cells are multiples of it: JPEG's blocks of colour do not cross them"""
SIDES = ((20_000, 64), (60_000, 48), (10**9, 32))
"""up to how many images thumbnails have which longest side in pixels"""
MOST_BYTES = 2**31
"""maximum size of all thumbnails in memory"""
QUALITY = 80
"""JPEG quality of the sheets"""
GRAY = (128, 128, 128)
"""around thumbnails on a sheet"""

Pixels = npt.NDArray[np.uint8]


class Thumbnails(NamedTuple):
    """Thumbnails of a data set; those that are missing have no pixels."""

    pixels: list[Pixels | None]
    """[h w 3] of each row"""
    cell: int
    """side of a cell in pixels"""
    bad: list[tuple[int, str]]
    """rows whose image does not decode, and why"""

    @property
    def across(self) -> int:
        """Cells of a row of a sheet."""
        return SHEET // self.cell

    @property
    def sizes(self) -> Pixels:
        """Width and height of each thumbnail [n 2]; 0 for missing ones."""
        found = [(0, 0) if one is None else one.shape[1::-1] for one in self.pixels]
        return np.array(found, np.uint8)


def usual_side(images: int) -> int:
    """Longest side of the thumbnails of so many images."""
    return next(side for most, side in SIDES if images <= most)


def require_room(table: Table, side: int) -> None:
    """Raise UserError where thumbnails of this side may take more than MOST_BYTES."""
    most = math.isqrt(MOST_BYTES // (3 * table.rows))
    if "image" in table.nested and side > most:
        size = 3 * side**2 * table.rows
        raise UserError(
            f"--side {side}: {table.rows:,} thumbnails may take {size / 1e9:.1f} GB of memory "
            f"({MOST_BYTES / 1e9:.1f} GB at most): use --side {most} or smaller"
        )


def read_thumbnails(table: Table, side: int, progress: Progress) -> Thumbnails:
    """Decode the column `image`, reduced to `side` pixels.

    Images are structs with `bytes`, or bytes.  `progress` is called with rows done and all.
    """
    pixels: list[Pixels | None] = []
    bad: list[tuple[int, str]] = []
    for column in stream(table, "image") if "image" in table.nested else ():
        for value in column:
            data = _bytes(value.as_py())
            try:
                pixels.append(None if data is None else _decoded(data, side))
            except BadImage as error:
                bad.append((len(pixels), str(error)))
                pixels.append(None)
        progress(len(pixels), table.rows)
    pixels = pixels or [None] * table.rows
    largest = max((max(one.shape[:2]) for one in pixels if one is not None), default=BLOCK)
    return Thumbnails(pixels, -(-largest // BLOCK) * BLOCK, bad)


def _bytes(value: Any) -> bytes | None:
    """Bytes of an image; never those of a file that the table names."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None


def _decoded(data: bytes, side: int) -> Pixels:
    with open_image(io.BytesIO(data)) as image:
        image.draft("RGB", (side, side))
        picture: Image.Image = image
        if picture.mode.startswith("I"):  # 16 bits of gray
            gray = (np.asarray(picture).astype(np.float32) / 257).round()
            picture = Image.fromarray(gray.clip(0, 255).astype(np.uint8))
        picture = picture.convert("RGB")
        factor = min(1.0, side / max(picture.size))
        size = [max(1, round(length * factor)) for length in picture.size]
        return np.asarray(picture.resize((size[0], size[1]), Resampling.LANCZOS))


def sheet_order(places: Floats) -> npt.NDArray[np.int64]:
    """Rows along a Z-order curve over the map [n 2] (Morton 1966): near ones mostly follow."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = np.maximum(high.astype(np.float64) - low, np.finfo(np.float32).tiny)
    grid = ((places - low) / span * (2**16 - 1)).astype(np.uint64)
    code = np.zeros(len(places), np.uint64)
    for bit in range(16):
        for axis in range(2):
            code |= ((grid[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + axis)
    return np.argsort(code, kind="stable")


def draw_sheets(thumbnails: Thumbnails, order: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """Yield sheets as JPEG files; `order`: rows with a thumbnail, by the number of their cell."""
    across, cell = thumbnails.across, thumbnails.cell
    for start in range(0, len(order), across * across):
        rows = order[start : start + across * across]
        height = -(-len(rows) // across) * cell
        sheet = np.full((height, across * cell, 3), GRAY, np.uint8)
        for number, row in enumerate(rows):
            found = thumbnails.pixels[row]
            if found is not None:
                top, left = number // across * cell, number % across * cell
                sheet[top : top + found.shape[0], left : left + found.shape[1]] = found
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()
