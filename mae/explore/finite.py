"""Finite numbers among the values that files of others hold."""

from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
"""largest number of a page"""
LARGEST_COUNT = 2**53
"""largest integer that a browser reads exactly"""


def finite(value: Any) -> float | None:
    """Number of JSON; None for other values, and for those beyond single precision."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is converted: an integer of 400 digits is no float; NaN compares false.
    return float(value) if abs(value) <= LARGEST else None


def share(value: Any) -> float | None:
    """Number from 0 to 1; None for other values."""
    found = finite(value)
    return found if found is not None and 0 <= found <= 1 else None


def count(value: Any) -> int | None:
    """Integer of 1 or more; None for other values."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 1 <= value <= LARGEST_COUNT else None
