"""Charts as they are declared, drawn from the rows of a run."""

from collections.abc import Sequence

from mae.evaluation.rows import Recorded, Row, interval, number
from mae.objectives.declaration import Chart, Curve
from mae.report.charts import Line, Marks, chart
from mae.report.html import Markup, tag, text
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


def draw(declared: Chart, run: Recorded, seen: Marks) -> Markup:
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
    always = 0.0 if declared.is_share and declared.always is None else declared.always
    return chart(
        declared.title,
        lines,
        seen,
        form=percent if declared.is_share else compact,
        wants_log=declared.is_log,
        floor=declared.lowest,
        least=always,
        ceiling=max(known) if declared.cuts_spikes and known else None,
        gaps=gone,
    )


def grid(charts: Sequence[Chart], run: Recorded, seen: Marks) -> Markup:
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


def _curve(run: Recorded, curve: Curve, look: str) -> Line:
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
