"""Axes of charts: range, positions, ticks, number formats.  Pure functions."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

Points = Sequence[tuple[float, float]]
"""finite (x, y) in the order of x"""

STEPS = (1, 2, 2.5, 5, 10)
"""distances between ticks, times a power of ten"""
DECADE = (1, 2, 5)
"""ticks of a logarithmic axis, times powers of ten"""
MOST_TICKS = 5
LOG_RATIO = 4
"""ratio of highest to lowest value above which an axis may be logarithmic"""


class Bucket(NamedTuple):
    """Mean and range of neighbouring points."""

    x: float
    mean: float
    low: float
    high: float
    points: int


def reduce(points: Points, span: tuple[float, float], buckets: int) -> list[Bucket]:
    """Reduce points to a maximum of `buckets` buckets of equal width, without empty ones.

    With that many points or fewer, each is a bucket of its own.
    """
    if len(points) <= buckets:
        return [Bucket(x, y, y, y, 1) for x, y in points]
    width = (span[1] - span[0]) / buckets or 1.0
    groups: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        place = int((point[0] - span[0]) / width)
        groups.setdefault(min(max(place, 0), buckets - 1), []).append(point)
    return [_bucket(groups[place]) for place in sorted(groups)]


class Scale(NamedTuple):
    """Range of an axis; values beyond it are drawn at its edge."""

    low: float
    high: float
    is_log: bool

    def place(self, value: float) -> float:
        """Position of a value: 0 at the low end, 1 at the high end."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self) -> list[float]:
        """Up to MOST_TICKS round numbers within the range."""
        if not self.is_log:
            return round_numbers(self.low, self.high)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in (DECADE, (1, 3), (1,)):
            ticks = [d * 10.0**p for p in powers for d in digits]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) <= MOST_TICKS:
                break
        return ticks[:: -(-len(ticks) // MOST_TICKS)] if len(ticks) > 1 else [self.low, self.high]


def fit(
    values: Sequence[float],
    *,
    floor: float | None = None,
    ceiling: float | None = None,
    least: float | None = None,
    wants_log: bool = False,
) -> Scale:
    """Scale for `values`, with a small margin.

    `floor` and `ceiling`: limits of the axis.  `least`: value that the axis includes.
    Logarithmic with `wants_log` where positive values span more than a factor of LOG_RATIO.
    """
    if floor is not None:
        values = [max(value, floor) for value in values]
    if ceiling is not None:
        values = [min(value, ceiling) for value in values]
    if least is not None:
        values = [*values, least]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if wants_log and low > 0 and high / low > LOG_RATIO:
        return Scale(low / 1.1, high * 1.1, is_log=True)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low if low in (least, floor) else low - margin, high + margin, is_log=False)


def round_numbers(low: float, high: float) -> list[float]:
    """Up to MOST_TICKS multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high]."""
    unit = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    for size in (step * unit for step in STEPS):
        first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
        if last - first < MOST_TICKS:
            return [place * size for place in range(first, last + 1)]
    return [low, high]


def compact(value: float) -> str:
    """Short form of a number: 1,234 · 12k · 3.4M · 0.25 · 1.5e-3."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M" if size < 1e9 else f"{value:.2g}"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size and size < 1e-2:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.4g}" if size < 1e3 else f"{value:,.0f}"


def percent(value: float) -> str:
    """Percentage: 0.25 as 25%, small shares with one more digit."""
    return f"{value:.0%}" if not value or abs(value) >= 0.02 else f"{value:.1%}"


def formatted(spec: str) -> Callable[[float], str]:
    """Function that formats a number by Python's format `spec`."""
    return lambda value: format(value, spec)


def _bucket(group: list[tuple[float, float]]) -> Bucket:
    heights = [y for _, y in group]
    return Bucket(group[-1][0], sum(heights) / len(group), min(heights), max(heights), len(group))
