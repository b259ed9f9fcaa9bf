"""Charts of a report: which there are, and their curves from the rows of a run."""

from collections.abc import Iterable, Iterator, Sequence

from mae.evaluation.run_record import Row, RunRecord, interval, number, series
from mae.objectives.charts import LOSS, Chart, Curve, Level
from mae.objectives.declaration import Declaration
from mae.pictures.html import Markup, tag, text
from mae.report.charts import Line, Marks, chart
from mae.report.run_record import Record
from mae.report.scales import compact, percent

HUGE = 1e30
"""limit that larger numbers are clipped to, so that differences stay finite"""

FIRST_FALL = 2.5
"""ratio of a curve's start to the rest up to which it is on the axis"""

COLOURS = "abcde"
"""styles of lines, in their order"""

REFERENCES = ("base", "base finer")
"""styles of reference lines, in their order"""

FAULTS = ("skip", "spike", "rollback")
"""events that charts mark as faults"""


def _first_rankme(run: RunRecord) -> float | None:
    found = series(run.health, "rankme")
    return found[0] if found else None


OPTIMISATION = (
    Chart("Learning rate", (Curve("lr", "lr"),), axis_includes=0.0),
    Chart("Gradient norm", (Curve("grad_norm", "grad_norm"),), is_log=True),
)
SKIPPED = Chart("Skipped steps, so far", (Curve("skipped", "skipped"),), axis_includes=0.0)

SPEED = (
    Chart(
        "Images per second", (Curve("images_per_second", "images_per_second"),), axis_includes=0.0
    ),
    Chart("Time spent waiting for data", (Curve("data_wait", "data_wait"),), is_share=True),
    Chart("Model FLOP utilisation", (Curve("mfu", "mfu"),), is_share=True),
    Chart("Device memory, GB", (Curve("memory_gb", "memory_gb"),), axis_includes=0.0),
)


FEATURES = (
    Chart(
        "RankMe, effective dimensions",
        (Curve("rankme", "now", "health"),),
        axis_includes=0.0,
        levels=(Level("at first", _first_rankme),),
    ),
    Chart(
        "Spread of the features",
        (
            Curve("spread", "spread", "health"),
            Curve("cosine", "cosine", "health"),
            Curve("dead", "dead", "health"),
        ),
        axis_includes=0.0,
    ),
    Chart(
        "Accuracy on held-out images",
        (
            Curve("probe", "probe", "health"),
            Curve("knn", "k-NN", "health"),
            Curve("chance", "chance", "health", is_reference=True),
        ),
        is_share=True,
    ),
)

POSITION = {"step", "epoch", "samples", "images", "bad", "skipped", "width", "seconds"}
"""columns that do not measure learning"""

PART = "loss_"
"""prefix of the columns of single losses"""

MOST = 40
"""maximum number of charts of undeclared columns"""


def marks(record: Record) -> Marks:
    """Span, warm-up, restarts and faults of a run."""
    last = record.metrics[-1] if record.metrics else {}
    step, epoch = number(last, "step") or 1.0, number(last, "epoch") or 0.0
    warmup = record.recorded.warmup_epochs
    return Marks(
        span=(0.0, max(step, 1.0)),
        warmup=min(step, warmup * step / epoch) if epoch else 0.0,
        restarts=_steps_of(record.events, ("resume",)),
        faults=_steps_of(record.events, FAULTS),
    )


def draw(declared: Chart, run: RunRecord, marks: Marks) -> Markup:
    """Chart of a run; empty where the run has none of its curves."""
    values = [one for one in declared.curves if not one.is_reference]
    references = [one for one in declared.curves if one.is_reference]
    lines = [_curve(run, one, COLOURS[place % len(COLOURS)]) for place, one in enumerate(values)]
    if not any(line.points for line in lines):
        return Markup("")
    gone = [step for one in values if one.source == "metrics" for step in gaps(run.metrics, one)]
    ceilings = [usual_maximum(marks.warmup / 2, line) for line in lines]
    known = [ceiling for ceiling in ceilings if ceiling is not None]
    style = iter(REFERENCES)
    lines += [_curve(run, one, next(style, REFERENCES[-1])) for one in references]
    for level in declared.levels:
        value = level.value(run)
        points = [(x, value) for x in marks.span] if value is not None else []
        lines.append(Line(level.label, points, next(style, REFERENCES[-1])))
    least = 0.0 if declared.is_share and declared.axis_includes is None else declared.axis_includes
    return chart(
        declared.title,
        lines,
        marks,
        form=percent if declared.is_share else compact,
        wants_log=declared.is_log,
        floor=declared.floor,
        least=least,
        ceiling=max(known) if declared.cuts_spikes and known else None,
        gaps=gone,
    )


def grid(charts: Sequence[Chart], run: RunRecord, marks: Marks) -> Markup:
    """Charts side by side, or "Nothing recorded."."""
    found = [drawn for drawn in (draw(one, run, marks) for one in charts) if drawn]
    if not found:
        return tag("p", text("Nothing recorded."), class_="none")
    return tag("div", *found, class_="charts")


def line(rows: Sequence[Row], key: str, *, name: str = "", style: str = "a") -> Line:
    """Column of the rows over their steps; missing and non-finite values are skipped."""
    pairs = [(number(row, "step"), number(row, key)) for row in rows]
    points = [(x, min(max(y, -HUGE), HUGE)) for x, y in pairs if x is not None and y is not None]
    return Line(name or key, points, style)


def gaps(rows: Sequence[Row], curve: Curve) -> list[float]:
    """Steps whose row has the column, but no finite number in it."""
    key = curve.key
    steps = [number(row, "step") for row in rows if key in row and number(row, key) is None]
    return [step for step in steps if step is not None]


def _curve(run: RunRecord, curve: Curve, style: str) -> Line:
    rows = run.health if curve.source == "health" else run.metrics
    drawn = line(rows, curve.key, name=curve.label, style=style)
    if not curve.interval:
        return drawn
    # Drawn as a band only if each point has an interval.
    known = {number(row, "step"): interval(row, curve.interval) for row in rows}
    found = [known.get(x) for x, _ in drawn.points]
    return drawn._replace(intervals=[one for one in found if one is not None])


def usual_maximum(step: float, curve: Line) -> float | None:
    """99.5th percentile of the curve after `step`, or its start, where that is not far above.

    With spikes, or a start far above, on the axis, the slow decrease would appear flat.  None
    without points after `step`.
    """
    values = sorted(y for x, y in curve.points if x > step)
    if not values:
        return None
    usual = values[int(0.995 * len(values))]
    start = max([curve.points[0][1], *(y for x, y in curve.points if x <= step)])
    return start if usual < start <= FIRST_FALL * usual else usual


def _steps_of(events: Sequence[Row], kinds: Sequence[str]) -> list[float]:
    steps = [number(row, "step") for row in events if row.get("event") in kinds]
    return [step for step in steps if step is not None]


def learning(record: Record) -> list[Chart]:
    """Charts of losses and metrics, as the objective declares them."""
    declared = record.declared
    parts = [key for key in _columns(record.metrics) if key.startswith(PART)]
    lines = [Curve(key, key.removeprefix(PART)) for key in parts]
    by_name = [Chart("Losses by name", lines, is_log=True, cuts_spikes=True)] if lines else []
    if declared is None:
        return [LOSS, *by_name, *_undeclared(record)]
    return [declared.loss_chart, *by_name, *declared.charts, *_of_metrics(declared)]


def optimisation(record: Record) -> list[Chart]:
    """Charts of learning rate, gradient norm and skipped steps."""
    return [*OPTIMISATION, *([SKIPPED] if any(series(record.metrics, "skipped")) else [])]


def has_features(record: Record) -> bool:
    """True where the health of the features was measured."""
    return bool(_charted(FEATURES) & set(_columns(record.health)))


def _of_metrics(declared: Declaration) -> Iterator[Chart]:
    """Chart for each metric that no declared chart has."""
    charted = _charted(declared.charts)
    for metric in declared.metrics:
        if metric.on_progress_line and metric.key not in charted:
            title = metric.label[:1].upper() + metric.label[1:]
            yield _alone(metric.key, title)._replace(is_share=metric.format.endswith("%"))


def _undeclared(record: Record) -> list[Chart]:
    """Chart for each column that no other chart has."""
    known = _charted([LOSS, *OPTIMISATION, *SPEED, *FEATURES]) | POSITION
    found = dict.fromkeys([*_columns(record.metrics), *_columns(record.health)])
    rest = [key for key in found if key not in known and not key.startswith(PART)]
    return [_alone(key, key) for key in rest[:MOST]]


def _alone(key: str, title: str) -> Chart:
    return Chart(title, (Curve(key, "training"), Curve(key, "held-out", "health")))


def _charted(charts: Iterable[Chart]) -> set[str]:
    return {curve.key for chart in charts for curve in chart.curves}


def _columns(rows: Sequence[Row]) -> list[str]:
    """Columns with a number in at least one row, in order of first appearance."""
    return list(dict.fromkeys(k for row in rows for k in row if number(row, k) is not None))
