"""Moments of latents, channel by channel, from counts, sums and sums of squares."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple


class LatentScale(NamedTuple):
    """Moments of latents."""

    mean: list[float]
    """per channel"""
    std: list[float]
    """per channel"""
    overall_std: float
    """of all numbers together; its inverse is diffusers' scaling_factor"""


def scale_of(sums: Sequence[float]) -> LatentScale | None:
    """Moments from count, sum and sum of squares of each channel; None: nothing is counted."""
    size = len(sums) // 3
    counts, totals, squares = sums[:size], sums[size : 2 * size], sums[2 * size :]
    if not sum(counts):
        return None
    mean = [total / count for total, count in zip(totals, counts, strict=True)]
    power = [square / count for square, count in zip(squares, counts, strict=True)]
    std = [sqrt(max(p - m * m, 0.0)) for p, m in zip(power, mean, strict=True)]
    overall = sum(squares) / sum(counts) - (sum(totals) / sum(counts)) ** 2
    return LatentScale(mean, std, sqrt(max(overall, 0.0)))
