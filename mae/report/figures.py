"""Charts as they are declared, drawn from the rows of a run."""

from collections.abc import Iterable, Iterator, Sequence

from mae.evaluation.diagnosis import Row, RunRecord, interval, number, series
from mae.objectives.declaration import LOSS, Chart, Curve, Declaration, Level
from mae.pictures.html import Markup, tag, text
from mae.report.charts import Line, Marks, chart
from mae.report.record import Record
from mae.report.scales import compact, percent

HUGE = 1e30
"""beyond it numbers count as this, so that differences stay finite"""

LOOKS = "abcde"
"""colours of lines, in their order"""

REFERENCES = ("base", "base finer")

FAULTS = ("skip", "spike", "rollback")


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


def draw(declared: Chart, run: RunRecord, seen: Marks) -> Markup:
    """The chart of a run, or nothing where it has none of its curves."""
    values = [one for one in declared.curves if not one.is_reference]
    references = [one for one in declared.curves if one.is_reference]
    lines = [_curve(run, one, LOOKS[place % len(LOOKS)]) for place, one in enumerate(values)]
    if not any(line.points for line in lines):
        return Markup("")
    gone = [step for one in values if one.source == "metrics" for step in gaps(run.metrics, one)]
    ceilings = [_usual_most_after(seen.warmup / 2, line) for line in lines]
    known = [ceiling for ceiling in ceilings if ceiling is not None]
    look = iter(REFERENCES)
    lines += [_curve(run, one, next(look, REFERENCES[-1])) for one in references]
    for level in declared.levels:
        value = level.value(run)
        points = [(x, value) for x in seen.span] if value is not None else []
        lines.append(Line(level.label, points, next(look, REFERENCES[-1])))
    least = 0.0 if declared.is_share and declared.axis_includes is None else declared.axis_includes
    return chart(
        declared.title,
        lines,
        seen,
        form=percent if declared.is_share else compact,
        wants_log=declared.is_log,
        floor=declared.floor,
        least=least,
        ceiling=max(known) if declared.cuts_spikes and known else None,
        gaps=gone,
    )


def grid(charts: Sequence[Chart], run: RunRecord, seen: Marks) -> Markup:
    """Charts side by side, or a word where there are none."""
    found = [drawn for drawn in (draw(one, run, seen) for one in charts) if drawn]
    if not found:
        return tag("p", text("Nothing recorded."), class_="none")
    return tag("div", *found, class_="charts")


def line(rows: Sequence[Row], key: str, *, name: str = "", look: str = "a") -> Line:
    """A column of the rows over their steps; what is missing or not finite is left out."""
    pairs = [(number(row, "step"), number(row, key)) for row in rows]
    points = [(x, min(max(y, -HUGE), HUGE)) for x, y in pairs if x is not None and y is not None]
    return Line(name or key, points, look)


def gaps(rows: Sequence[Row], curve: Curve) -> list[float]:
    """Steps whose row has the column, but no finite number in it."""
    key = curve.key
    steps = [number(row, "step") for row in rows if key in row and number(row, key) is None]
    return [step for step in steps if step is not None]


def _curve(run: RunRecord, curve: Curve, look: str) -> Line:
    rows = run.health if curve.source == "health" else run.metrics
    drawn = line(rows, curve.key, name=curve.label, look=look)
    if not curve.interval:
        return drawn
    # A band, where each of its points has its interval.
    known = {number(row, "step"): interval(row, curve.interval) for row in rows}
    found = [known.get(x) for x, _ in drawn.points]
    return drawn._replace(intervals=[one for one in found if one is not None])


def _usual_most_after(step: float, curve: Line) -> float | None:
    """All but the spikes: with these, or what comes before, the slow fall would look flat."""
    values = sorted(y for x, y in curve.points if x > step)
    return values[int(0.995 * len(values))] if values else None


def _steps_of(events: Sequence[Row], kinds: Sequence[str]) -> list[float]:
    steps = [number(row, "step") for row in events if row.get("event") in kinds]
    return [step for step in steps if step is not None]


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


def _first_rankme(run: RunRecord) -> float | None:
    found = series(run.health, "rankme")
    return found[0] if found else None


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
"""columns that are no measurement of learning"""

PART = "loss_"
"""begins the columns of single losses"""

MOST = 40
"""charts of columns that nobody declares"""


def learning(record: Record) -> list[Chart]:
    """Losses and metrics."""
    declared = record.declared
    parts = [key for key in _columns(record.metrics) if key.startswith(PART)]
    lines = [Curve(key, key.removeprefix(PART)) for key in parts]
    by_name = [Chart("Losses by name", lines, is_log=True, cuts_spikes=True)] if lines else []
    if declared is None:
        return [LOSS, *by_name, *_undeclared(record)]
    return [declared.loss_chart, *by_name, *declared.charts, *_of_metrics(declared)]


def optimisation(record: Record) -> list[Chart]:
    """Learning rate, gradients, skipped steps."""
    return [*OPTIMISATION, *([SKIPPED] if any(series(record.metrics, "skipped")) else [])]


def has_features(record: Record) -> bool:
    """True where the health of the features was measured."""
    return bool(_charted(FEATURES) & set(_columns(record.health)))


def _of_metrics(declared: Declaration) -> Iterator[Chart]:
    """A chart for each metric that is on none."""
    charted = _charted(declared.charts)
    for metric in declared.metrics:
        if metric.on_progress_line and metric.key not in charted:
            title = metric.label[:1].upper() + metric.label[1:]
            yield _alone(metric.key, title)._replace(is_share=metric.format.endswith("%"))


def _undeclared(record: Record) -> list[Chart]:
    """A chart for each column that is on no other."""
    known = _charted([LOSS, *OPTIMISATION, *SPEED, *FEATURES]) | POSITION
    found = dict.fromkeys([*_columns(record.metrics), *_columns(record.health)])
    rest = [key for key in found if key not in known and not key.startswith(PART)]
    return [_alone(key, key) for key in rest[:MOST]]


def _alone(key: str, title: str) -> Chart:
    return Chart(title, (Curve(key, "training"), Curve(key, "held-out", "health")))


def _charted(charts: Iterable[Chart]) -> set[str]:
    return {curve.key for chart in charts for curve in chart.curves}


def _columns(rows: Sequence[Row]) -> list[str]:
    """Columns that hold a number in some row, in the order of their coming."""
    return list(dict.fromkeys(k for row in rows for k in row if number(row, k) is not None))
