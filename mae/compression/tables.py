"""Tables of integer frequencies of codes: measured once, kept in a file, the same on any machine.

The file holds counts; frequencies follow from them by integer arithmetic.  Every code has a
frequency of at least 1, so that any code can be written.

NAME.maet: "MAET", version, checksum of the model, size of the maps, counts (deflated), checksum.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mae.base.errors import UserError
from mae.base.files import new_file
from mae.compression.range_coder import TOTAL

Counts = npt.NDArray[np.int64]

MAGIC, VERSION = b"MAET", 1
ENDING = ".maet"
HEAD = struct.Struct("<4sB32sIIIBI")
"""magic, version, sha256 of the model's weights, codes, parts, backing, levels, length of rest"""
GRID = struct.Struct("<II")
DIGEST = 8
"""length in bytes of checksums, the first of a sha256"""
BACKINGS = (4, 16, 64, 256, 1024)
"""weights of the table of all positions in that of one, in codes, of which the best is taken"""
WORTH = 0.01
"""share of the bits by which tables of positions must win"""
MOST_FREQUENCIES = 1 << 22
"""maximum number of frequencies in tables of positions"""
MOST_COUNT = 1 << 38
"""maximum sum of weights: products with TOTAL fit 63 bits"""
MOST_PARTS = 1 << 13
"""maximum number of images or tiles that tables of positions are measured on, for this reason"""
MOST_BYTES = 1 << 30
"""maximum size of the counts in a file"""


def frequencies(weights: Counts) -> Counts:
    """Frequencies [... k] of sum TOTAL from weights of at least 0, by integers alone; at least 1.

    Weights sum up to 1 to MOST_COUNT.
    """
    codes = weights.shape[-1]
    found = 1 + weights * (TOTAL - codes) // weights.sum(-1, keepdims=True)
    largest = found.argmax(-1)[..., None]
    rest = TOTAL - found.sum(-1, keepdims=True)
    np.put_along_axis(found, largest, np.take_along_axis(found, largest, -1) + rest, -1)
    return found


def smoothed(counts: Counts) -> Counts:
    """Frequencies from counts, each half a count more (Krichevsky and Trofimov 1981)."""
    return frequencies(2 * counts + 1)


def starts_of(table: Counts) -> Counts:
    """Starts [... k] of the intervals of frequencies."""
    return table.cumsum(-1) - table


class LevelCounts(NamedTuple):
    """Counts of the codes of one map."""

    grid: tuple[int, int]
    """rows and columns of the map of an image of the model's size"""
    all: Counts
    """[k] at any position, of maps of any size"""
    positions: Counts | None = None
    """[rows * columns, k] of maps of this grid; None: no gain in bits"""


class Tables:
    """Frequencies of the codes of each map."""

    def __init__(self, model: str, parts: int, levels: Sequence[LevelCounts], backing: int) -> None:
        """`model`: sha256 of its weights; `parts`: number of images or tiles counted.

        `backing`: weight of the table of all positions in that of one; 0: there is none of one.
        """
        self.model, self.parts, self.levels, self.backing = model, parts, levels, backing

    @cached_property
    def shared(self) -> list[Counts]:
        """Frequencies [k] of each map, for positions without a table of their own."""
        return [smoothed(level.all) for level in self.levels]

    @cached_property
    def placed(self) -> list[Counts | None]:
        """Frequencies [rows * columns, k] of each map, where there are any."""
        return [
            None if one.positions is None else backed(one.positions, shared, self.backing)
            for one, shared in zip(self.levels, self.shared, strict=True)
        ]

    def of(self, level: int, grid: tuple[int, int]) -> Counts:
        """Frequencies of a map of `grid`: [k], or [rows * columns, k]."""
        placed = self.placed[level]
        is_own = placed is not None and grid == self.levels[level].grid
        return placed if is_own else self.shared[level]

    @cached_property
    def content(self) -> bytes:
        """Content of the file."""
        arrays = [one.all for one in self.levels]
        arrays += [one.positions for one in self.levels if one.positions is not None]
        raw = b"".join(array.astype("<u4").tobytes() for array in arrays)
        rest = zlib.compress(raw, 9)
        codes = len(self.levels[0].all)
        head = HEAD.pack(
            MAGIC,
            VERSION,
            bytes.fromhex(self.model),
            codes,
            self.parts,
            self.backing,
            len(self.levels),
            len(rest),
        )
        grids = b"".join(GRID.pack(*one.grid) for one in self.levels)
        body = head + grids + rest
        return body + hashlib.sha256(body).digest()[:DIGEST]

    @property
    def checksum(self) -> bytes:
        """Checksum of all frequencies, as files record it."""
        return self.content[-DIGEST:]

    def write(self, path: Path) -> None:
        """Write the file.  Raises UserError where it cannot be written."""
        with new_file(path) as part:
            part.write_bytes(self.content)


def backed(counts: Counts, shared: Counts, backing: int) -> Counts:
    """Frequencies [n k] of positions; `shared` counts as `backing` more codes at each."""
    return frequencies(counts * TOTAL + backing * shared)


def read_tables(path: Path) -> Tables:
    """Tables of a file.  Raises UserError where it is none, of another version, or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_tables(content, str(path))


def parse_tables(content: bytes, name: str) -> Tables:
    """Tables of the content of the file `name`.  Raises UserError as `read_tables`."""
    if len(content) < HEAD.size or content[:4] != MAGIC:
        raise UserError(f"{name}: holds no tables of codes (mae compress writes them)")
    if content[4] != VERSION:
        raise UserError(
            f"{name}: tables of version {content[4]}; this version of mae reads {VERSION}"
        )
    body = content[:-DIGEST]
    if hashlib.sha256(body).digest()[:DIGEST] != content[-DIGEST:]:
        raise UserError(f"{name}: is damaged, or cut off")
    _, _, model, codes, counted, backing, count, length = HEAD.unpack_from(body)
    grids = [GRID.unpack_from(body, HEAD.size + GRID.size * number) for number in range(count)]
    positions = [rows * columns if backing else 0 for rows, columns in grids]
    sizes = [codes] * count + [many * codes for many in positions if many]
    rest = body[HEAD.size + GRID.size * count :]
    try:
        if len(rest) != length or not codes or 4 * sum(sizes) > MOST_BYTES:
            raise ValueError
        raw = zlib.decompressobj().decompress(rest, 4 * sum(sizes) + 1)
        values = np.frombuffer(raw, "<u4").astype(np.int64)
        if len(values) != sum(sizes):
            raise ValueError
    except (zlib.error, ValueError):
        raise UserError(f"{name}: is damaged") from None
    parts = np.split(values, np.cumsum(sizes)[:-1])
    most = [MOST_COUNT // 4] * count + [MOST_PARTS * many for many in positions if many]
    if any(int(part.sum()) > limit for part, limit in zip(parts, most, strict=True)):
        raise UserError(f"{name}: is damaged")
    placed = iter(parts[count:])
    levels = [
        LevelCounts(grid, own, next(placed).reshape(many, codes) if many else None)
        for grid, own, many in zip(grids, parts[:count], positions, strict=True)
    ]
    return Tables(model.hex(), counted, levels, backing)


def bits(codes: Counts, table: Counts) -> float:
    """Ideal length in bits of codes [b n], by a table [k] or [n k]."""
    found = table[codes] if table.ndim == 1 else table[np.arange(codes.shape[1]), codes]
    return float(-np.log2(found / TOTAL).sum())


class CodeCounter:
    """Counts of the codes of images, map by map, from which `Tables` are made.

    Maps of the model's grid are kept, the first MOST_PARTS, to see whether tables of positions need
    fewer bits.
    """

    def __init__(self, model: str, num_codes: int, grids: Sequence[tuple[int, int]]) -> None:
        self.model, self.num_codes, self.grids = model, num_codes, list(grids)
        self.parts = 0
        self.shared = [np.zeros(num_codes, np.int64) for _ in grids]
        self.kept: list[list[Counts]] = [[] for _ in grids]

    def add(self, codes: Counts, grids: Sequence[tuple[int, int]]) -> None:
        """Add the codes [b n] of some images or tiles, in maps of these grids."""
        self.parts += len(codes)
        ends = np.cumsum([rows * columns for rows, columns in grids])[:-1]
        for level, own in enumerate(np.split(codes, ends, axis=1)):
            self.shared[level] += np.bincount(own.ravel(), minlength=self.num_codes)
            if grids[level] == self.grids[level]:
                room = MOST_PARTS - sum(map(len, self.kept[level]))
                if room > 0:  # images come in random order: the first are as good as any
                    self.kept[level].append(own[:room])

    def tables(self) -> Tables:
        """Tables; of positions too, where those of half of the maps save bits on the others."""
        if not self.parts:
            raise UserError("no image to measure tables of codes on")
        kept = [np.concatenate(own) if own else None for own in self.kept]
        backing = self._best_backing(kept)
        levels = []
        for grid, shared, own in zip(self.grids, self.shared, kept, strict=True):
            placed = self._by_position(own) if backing and own is not None else None
            levels.append(LevelCounts(grid, shared, placed))
        return Tables(self.model, self.parts, levels, backing)

    def _by_position(self, codes: Counts) -> Counts:
        positions = codes.shape[1]
        flat = codes + self.num_codes * np.arange(positions)
        counts = np.bincount(flat.ravel(), minlength=positions * self.num_codes)
        return counts.reshape(positions, self.num_codes)

    def _best_backing(self, kept: Sequence[Counts | None]) -> int:
        """Backing of tables of positions; 0 where they need no fewer bits."""
        own = [codes for codes in kept if codes is not None and len(codes) > 1]
        many = self.num_codes * sum(codes.shape[1] for codes in own)
        if len(own) < len(kept) or many > MOST_FREQUENCIES:
            return 0
        found = dict.fromkeys((0, *BACKINGS), 0.0)
        for codes in own:
            fitted, held_out = codes[::2], codes[1::2]
            shared = smoothed(np.bincount(fitted.ravel(), minlength=self.num_codes))
            counts = self._by_position(fitted)
            found[0] += bits(held_out, shared)
            for backing in BACKINGS:
                found[backing] += bits(held_out, backed(counts, shared, backing))
        best = min(found, key=lambda one: found[one])
        return best if found[best] < (1 - WORTH) * found[0] else 0
