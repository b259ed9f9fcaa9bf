"""Models of codes: integer frequencies by tables, or by the probabilities that a prior computes."""

import platform
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mae.base.errors import UserError
from mae.compression.container import NO_TABLES
from mae.compression.layout import Grids
from mae.compression.range_coder import TOTAL, Decoder
from mae.compression.tables import Counts, Tables, frequencies, starts_of
from mae.objectives.capabilities import CodeSteps, ImageCoding, Probabilities


class Intervals(NamedTuple):
    """Symbols of a range coder, in their order."""

    starts: list[int]
    frequencies: list[int]
    bits: float
    """ideal length"""


class Model(Protocol):
    """Frequencies of codes."""

    checksum: bytes
    """of the tables, for files; NO_TABLES: there are none"""
    build: str
    """what computes the frequencies, for files; empty: they are the same on any machine"""

    def intervals(self, codes: Counts, grids: Grids) -> Intervals:
        """Intervals of the codes [b n] of images with these maps."""
        ...

    def decoded(self, decoder: Decoder, count: int, grids: Grids) -> Counts:
        """Codes [count n] of images with these maps."""
        ...


class TableModel:
    """Codes by static tables, independent of each other."""

    build = ""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.checksum = tables, tables.checksum
        self.lists: dict[tuple[int, tuple[int, int]], list[list[int]]] = {}

    def intervals(self, codes: Counts, grids: Grids) -> Intervals:
        """Intervals of the codes [b n]: image by image, map by map, row by row."""
        sizes, starts, widths = [prod(grid) for grid in grids], [], []
        for level, part in enumerate(np.split(codes, np.cumsum(sizes)[:-1], axis=1)):
            table = self.tables.of(level, grids[level])
            pick = part if table.ndim == 1 else (np.arange(part.shape[1]), part)
            starts.append(starts_of(table)[pick])
            widths.append(table[pick])
        start, width = (np.concatenate(one, axis=1).ravel() for one in (starts, widths))
        return Intervals(start.tolist(), width.tolist(), ideal_bits(width))

    def decoded(self, decoder: Decoder, count: int, grids: Grids) -> Counts:
        """Codes [count n]."""
        tables = []
        for level, grid in enumerate(grids):
            own = self._starts(level, grid)
            tables += own if len(own) > 1 else own * prod(grid)
        found = [decoder.symbol(table) for _ in range(count) for table in tables]
        return np.array(found, np.int64).reshape(count, len(tables))

    def _starts(self, level: int, grid: tuple[int, int]) -> list[list[int]]:
        """Starts of the intervals: of any position, or of each."""
        key = level, grid
        if key not in self.lists:
            found = starts_of(self.tables.of(level, grid))
            self.lists[key] = np.atleast_2d(found).tolist()
        return self.lists[key]


class PredictedModel:
    """Codes by the probabilities that an objective computes, as integers."""

    checksum = NO_TABLES

    def __init__(self, coding: ImageCoding) -> None:
        assert coding.predict is not None
        self.predict, self.build = coding.predict, this_build()

    def intervals(self, codes: Counts, grids: Grids) -> Intervals:
        """Intervals of the codes [b n]: step by step of the prediction, image by image."""
        starts: list[int] = []
        widths: list[int] = []
        prediction = self.predict(len(codes))
        found = next(prediction, None)
        while found is not None:
            table = as_frequencies(found.values)
            own = codes[:, list(found.positions)]
            index = own[..., None]
            widths += np.take_along_axis(table, index, 2).ravel().tolist()
            starts += np.take_along_axis(starts_of(table), index, 2).ravel().tolist()
            found = _sent(prediction, own)
        return Intervals(starts, widths, ideal_bits(np.array(widths)))

    def decoded(self, decoder: Decoder, count: int, grids: Grids) -> Counts:
        """Codes [count n]."""
        codes = np.zeros((count, sum(map(prod, grids))), np.int64)
        prediction = self.predict(count)
        found = next(prediction, None)
        while found is not None:
            starts = starts_of(as_frequencies(found.values))
            rows = starts.reshape(-1, starts.shape[2])
            found_codes = [decoder.symbol(row.tolist()) for row in rows]
            symbols = np.array(found_codes, np.int64).reshape(starts.shape[:2])
            codes[:, list(found.positions)] = symbols
            found = _sent(prediction, symbols)
        return codes


def _sent(prediction: CodeSteps, codes: Counts) -> Probabilities | None:
    """Next probabilities, after these codes; None: all are known."""
    try:
        return prediction.send(torch.from_numpy(codes))
    except StopIteration:
        return None


def as_frequencies(probabilities: Tensor) -> Counts:
    """Frequencies [b m k] from float64 probabilities: rounded down, at least 1.

    Raises UserError where they are not finite.
    """
    if not probabilities.isfinite().all():
        raise UserError("the model's probabilities are not finite: its weights are damaged")
    return frequencies((probabilities.numpy() * TOTAL).astype(np.int64))


def ideal_bits(widths: Counts) -> float:
    """Ideal length in bits of symbols of these frequencies."""
    return float(-np.log2(widths / TOTAL).sum())


def this_build() -> str:
    """Everything that the roundings of a prediction depend on, besides the weights."""
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {platform.machine()} {kernels}, float64, 1 thread"
