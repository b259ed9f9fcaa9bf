"""Metrics of an objective, and the charts of the report that show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from mae.evaluation.run_record import RunRecord


class Metric(NamedTuple):
    """Metric of the training images: a column of metrics.jsonl.

    A column of the same name in health.jsonl is the same metric of the held-out images.
    """

    key: str
    """column of metrics.jsonl"""
    label: str
    """name on the progress line and in the report"""
    format: str = ".3f"
    """format specification, as in format(value, ".1%")"""
    on_progress_line: bool = True
    """shown on the progress line, and on a chart of its own unless `charts` has one"""
    tile: str = ""
    """label of the tile at the head of the report (default: `label`)"""


class Curve(NamedTuple):
    """Line of a chart: one column over optimizer steps."""

    key: str
    """column of the file"""
    label: str
    """name in the legend"""
    source: Literal["metrics", "health"] = "metrics"
    """file of the run: metrics.jsonl (training images) or health.jsonl (held-out images)"""
    is_reference: bool = False
    """a baseline for the other lines: drawn thin and grey"""
    interval: str = ""
    """column with the confidence interval [low, high], drawn as a band ("": none)"""


class Level(NamedTuple):
    """Horizontal line of a chart, such as chance."""

    label: str
    """name in the legend"""
    value: Callable[[RunRecord], float | None]
    """height of the line, from a run's records; None: no line"""


class Chart(NamedTuple):
    """Chart of the report, over optimizer steps."""

    title: str
    curves: Sequence[Curve]
    floor: float | None = None
    """lower bound of the axis; values below are drawn at it"""
    axis_includes: float | None = None
    """value that the axis always includes"""
    is_share: bool = False
    """values are shares from 0 to 1, shown in percent on an axis that begins at 0"""
    is_log: bool = False
    """logarithmic axis, where the values span orders of magnitude"""
    cuts_spikes: bool = False
    """spikes and the values of early warm-up are cut off instead of stretching the axis"""
    levels: Sequence[Level] = ()
    """horizontal lines"""


LOSS = Chart(
    "Loss",
    (Curve("loss", "loss"), Curve("loss", "held-out", "health")),
    is_log=True,
    cuts_spikes=True,
)
"""default loss chart"""
