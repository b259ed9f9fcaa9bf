"""Recorded numbers of a run: rows of its files, any of which may lack a number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class RunRecord(NamedTuple):
    """Recorded numbers of a run; rows in the order of their steps."""

    metrics: Sequence[Row] = ()
    """training metrics"""
    health: Sequence[Row] = ()
    """measurements on held-out images"""
    settings: Mapping[str, Any] = {}
    """config: dotted key → value"""
    evaluations: Mapping[str, Row] = {}
    """reports of commands such as `mae evaluate`, by file name"""

    @property
    def warmup_epochs(self) -> float:
        """Epochs of warm-up; 0 where unknown."""
        return number(self.settings, "optim.warmup_epochs") or 0.0


def number(row: Row, key: str) -> float | None:
    """Finite number at `key` of a row; None where there is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def series(rows: Sequence[Row], key: str, after_epoch: float = -1.0) -> list[float]:
    """Finite numbers of a column, of the rows after `after_epoch`."""
    found = [number(row, key) for row in rows if (number(row, "epoch") or 0.0) > after_epoch]
    return [value for value in found if value is not None]


def interval(row: Row, key: str = "interval") -> tuple[float, float] | None:
    """Interval at `key` of a row: two finite numbers; None where there is none."""
    value = row.get(key)
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = (number({key: bound}, key) for bound in value)
    return None if low is None or high is None else (low, high)


YOUNG = 0.2
"""share of the run, besides the warm-up, in which nothing is concluded yet"""


def settled(run: RunRecord, rows: Sequence[Row]) -> list[Row]:
    """Rows after the warm-up and the first fifth of the run."""
    start = max(run.warmup_epochs, YOUNG * (number(run.settings, "train.epochs") or 0.0))
    return [row for row in rows if (number(row, "epoch") or 0.0) > start]
