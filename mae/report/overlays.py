"""Charts of several runs over each other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mae.evaluation.run_record import Row, number
from mae.pictures.html import Markup, tag
from mae.report import lists
from mae.report.charts import Marks, chart
from mae.report.figures import line, usual_maximum
from mae.report.run_record import Record, State
from mae.report.scales import compact, formatted, percent

Form = Callable[[float], str]


class Compared(NamedTuple):
    """A run of the page."""

    label: str
    style: str
    record: Record
    reached: State


class Figure(NamedTuple):
    """Column of the rows of runs, and how it is shown."""

    source: str
    """metrics or health"""
    key: str
    title: str
    form: Form = compact
    is_log: bool = False
    cuts_spikes: bool = False
    """spikes and the first steps go beyond the axis"""
    axis_includes: float | None = None


def has_other_batches(runs: Sequence[Compared]) -> bool:
    """True where a step is not as many images in all runs: curves then go by images seen."""
    return len({_batch(run) for run in runs}) > 1


OPTIMISATION = (
    Figure("metrics", "lr", "Learning rate", axis_includes=0.0),
    Figure("metrics", "grad_norm", "Gradient norm", is_log=True),
    Figure("metrics", "images_per_second", "Images per second", axis_includes=0.0),
    Figure("metrics", "data_wait", "Time spent waiting for data", percent, axis_includes=0.0),
)
FEATURES = (
    Figure("health", "probe", "Quick probe, held-out accuracy", percent, axis_includes=0.0),
    Figure("health", "knn", "k-NN, held-out accuracy", percent, axis_includes=0.0),
    Figure("health", "rankme", "RankMe, effective dimensions", axis_includes=0.0),
    Figure("health", "spread", "Spread of the features", axis_includes=0.0),
)


def learning(runs: Sequence[Compared]) -> list[Figure]:
    """Loss, and each metric of the runs' progress lines, in training and on held-out images."""
    found = [Figure("metrics", "loss", "Loss", is_log=True, cuts_spikes=True)]
    for run in runs:
        for metric in run.record.declared.metrics if run.record.declared else ():
            if metric.on_progress_line:
                form = percent if metric.format.endswith("%") else formatted(metric.format)
                name = metric.label[:1].upper() + metric.label[1:]
                for source, where in (("metrics", "training"), ("health", "held-out")):
                    found.append(Figure(source, metric.key, f"{name}, {where}", form))
    by_key = {(one.source, one.key): one for one in found}
    return list(by_key.values())


def rows_of(run: Compared, source: str) -> list[Row]:
    """Rows of `metrics` or `health`."""
    return run.record.health if source == "health" else run.record.metrics


def _batch(run: Compared) -> float:
    """Images per step, from the rows, else the settings; 0: unknown."""
    for row in run.record.metrics[-1:]:
        step, samples = number(row, "step"), number(row, "samples")
        if step and samples:
            return samples / step
    return number(run.record.settings, "train.batch_size") or 0.0


def overlaid(runs: Sequence[Compared], figures: Sequence[Figure], by_images: bool) -> Markup:
    """Charts of the figures that any of the runs has, side by side."""
    drawn = [one for one in (_chart(runs, figure, by_images) for figure in figures) if one]
    return tag("div", *drawn, class_="charts") if drawn else lists.none("Nothing recorded.")


def _chart(runs: Sequence[Compared], figure: Figure, by_images: bool) -> Markup:
    drawn, ceilings, last = [], [], 1.0
    for run in runs:
        each = _batch(run) if by_images else 1.0
        curve = line(rows_of(run, figure.source), figure.key, name=run.label, style=run.style)
        curve = curve._replace(points=[(x * each, y) for x, y in curve.points])
        if not curve.points:
            continue
        drawn.append(curve)
        last = max(last, curve.points[-1][0])
        if figure.cuts_spikes:
            warmed = run.record.recorded.warmup_epochs / (_epochs(run) or 1.0)
            ceilings.append(usual_maximum(warmed * curve.points[-1][0] / 2, curve))
    known = [one for one in ceilings if one is not None]
    return chart(
        figure.title,
        drawn,
        Marks((0.0, last)),
        form=figure.form,
        wants_log=figure.is_log,
        least=figure.axis_includes,
        ceiling=max(known, default=None),
        unit="images" if by_images else "step",
    )


def _epochs(run: Compared) -> float | None:
    return number(run.record.metrics[-1], "epoch") if run.record.metrics else None
