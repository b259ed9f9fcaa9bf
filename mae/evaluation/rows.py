"""Numbers out of the rows that a run writes: any may be missing, or not finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Recorded(NamedTuple):
    """Numbers that a run has recorded; rows in the order of their steps."""

    metrics: Sequence[Row] = ()
    """of training images"""
    health: Sequence[Row] = ()
    """of held-out images"""
    settings: Mapping[str, Any] = {}
    """dotted key → value"""
    evaluations: Mapping[str, Row] = {}
    """results of commands such as `mae evaluate`, by the names of their files"""

    @property
    def warmup_epochs(self) -> float:
        """Epochs of warm-up, 0 where that is not known."""
        return number(self.settings, "optim.warmup_epochs") or 0.0


def number(row: Row, key: str) -> float | None:
    """A finite number of a row, or None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def series(rows: Sequence[Row], key: str, after_epoch: float = -1.0) -> list[float]:
    """The finite numbers of a column, of the rows after an epoch."""
    found = [number(row, key) for row in rows if (number(row, "epoch") or 0.0) > after_epoch]
    return [value for value in found if value is not None]


def interval(row: Row, key: str = "interval") -> tuple[float, float] | None:
    """Two finite numbers of a row, or None."""
    value = row.get(key)
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = (number({key: bound}, key) for bound in value)
    return None if low is None or high is None else (low, high)
