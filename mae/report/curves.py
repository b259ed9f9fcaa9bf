"""Which charts a run gets, from the columns that its rows have."""

from collections.abc import Sequence

from mae.evaluation.rows import Row, interval, number
from mae.report.charts import Line, Marks, chart
from mae.report.html import Markup, tag, text
from mae.report.record import Record
from mae.report.scales import percent

HUGE = 1e30
"""beyond it numbers count as this, so that differences stay finite"""

R2_FLOOR = -0.25
"""the first steps are far below, and would flatten all that follows"""

R2_LEAST = -0.05
"""so that the line at 0, what predicting the mean gives, is seen"""

FAULTS = ("skip", "spike", "rollback")


def marks(record: Record) -> Marks:
    """Span, warm-up, restarts and faults of a run."""
    last = record.metrics[-1] if record.metrics else {}
    step, epoch = number(last, "step") or 1.0, number(last, "epoch") or 0.0
    warmup = number(record.settings, "optim.warmup_epochs") or 0.0
    return Marks(
        span=(0.0, max(step, 1.0)),
        warmup=min(step, warmup * step / epoch) if epoch else 0.0,
        restarts=_steps_of(record.events, ("resume",)),
        faults=_steps_of(record.events, FAULTS),
    )


def learning(record: Record) -> list[Markup]:
    """Loss and R²."""
    seen, rows, health = marks(record), record.metrics, record.health
    return [
        chart(
            "Loss",
            [line(rows, "loss")],
            seen,
            wants_log=True,
            ceiling=_usual_most_after(seen.warmup / 2, line(rows, "loss")),
            gaps=gaps(rows, "loss"),
        ),
        chart(
            "R² on hidden patches",
            [
                line(rows, "r2", name="training"),
                line(health, "r2", name="held-out", look="b"),
                line(health, "r2_interpolation", name="interpolation", look="base"),
                line(health, "r2_patch_mean", name="patch mean", look="base finer"),
            ],
            seen,
            floor=R2_FLOOR,
            least=R2_LEAST,
            gaps=gaps(rows, "r2"),
        ),
    ]


def classification(record: Record) -> list[Markup]:
    """Loss and accuracy of a classifier, in training and on held-out images."""
    seen, rows, health = marks(record), record.metrics, record.health
    classes = number(record.settings, "finetune.num_classes")
    chance = [(x, 1 / classes) for x in seen.span] if classes else []
    return [
        chart(
            "Loss",
            [
                line(rows, "loss", name="training"),
                line(health, "loss", name="held-out", look="b"),
            ],
            seen,
            gaps=gaps(rows, "loss"),
        ),
        chart(
            "Accuracy",
            [
                line(rows, "accuracy", name="training"),
                with_intervals(health, line(health, "accuracy", name="held-out", look="b")),
                line(health, "balanced_accuracy", name="mean of classes", look="c"),
                Line("chance", chance, "base"),
            ],
            seen,
            form=percent,
            least=0.0,
        ),
    ]


def optimisation(record: Record) -> list[Markup]:
    """Learning rate, gradients, skipped steps."""
    seen, rows = marks(record), record.metrics
    skipped = line(rows, "skipped")
    has_skipped = any(y for _, y in skipped.points)
    return [
        chart("Learning rate", [line(rows, "lr")], seen, least=0.0),
        chart("Gradient norm", [line(rows, "grad_norm")], seen, wants_log=True),
        chart("Skipped steps, so far", [skipped] if has_skipped else [], seen, least=0.0),
    ]


def speed(record: Record) -> list[Markup]:
    """Throughput and what it waits for."""
    seen = marks(record)._replace(faults=())
    rows = record.metrics[1:]  # the first is start-up
    share = {"form": percent, "least": 0.0}
    return [
        chart("Images per second", [line(rows, "images_per_second")], seen, least=0.0),
        chart("Time spent waiting for data", [line(rows, "data_wait")], seen, **share),
        chart("Model FLOP utilisation", [line(rows, "mfu")], seen, **share),
        chart("Device memory, GB", [line(rows, "memory_gb")], seen, least=0.0),
    ]


def features(record: Record) -> list[Markup]:
    """Health of the features over time."""
    seen, rows = marks(record)._replace(faults=()), record.health
    first = [y for _, y in line(rows, "rankme").points[:1]]
    start = Line(
        "at first", [(seen.span[0], y) for y in first] + [(seen.span[1], y) for y in first]
    )
    return [
        chart(
            "RankMe, effective dimensions",
            [line(rows, "rankme", name="now"), start._replace(look="base")],
            seen,
            least=0.0,
        ),
        chart(
            "Spread of the features",
            [
                line(rows, "spread", name="spread"),
                line(rows, "cosine", name="cosine", look="b"),
                line(rows, "dead", name="dead", look="c"),
            ],
            seen,
            least=0.0,
        ),
        chart(
            "Accuracy on held-out images",
            [
                line(rows, "probe", name="probe"),
                line(rows, "knn", name="k-NN", look="b"),
                line(rows, "chance", name="chance", look="base"),
            ],
            seen,
            form=percent,
            least=0.0,
        ),
    ]


def grid(charts: Sequence[Markup]) -> Markup:
    """Charts side by side, or a word where there are none."""
    found = [one for one in charts if one]
    if not found:
        return tag("p", text("Nothing recorded."), class_="none")
    return tag("div", *found, class_="charts")


def line(rows: Sequence[Row], key: str, *, name: str = "", look: str = "a") -> Line:
    """A column of the rows over their steps; what is missing or not finite is left out."""
    pairs = [(number(row, "step"), number(row, key)) for row in rows]
    points = [(x, min(max(y, -HUGE), HUGE)) for x, y in pairs if x is not None and y is not None]
    return Line(name or key, points, look)


def with_intervals(rows: Sequence[Row], curve: Line) -> Line:
    """The curve within its rows' intervals, where each of its points has one."""
    known = {number(row, "step"): interval(row) for row in rows}
    found = [known.get(x) for x, _ in curve.points]
    return curve._replace(intervals=[one for one in found if one is not None])


def gaps(rows: Sequence[Row], key: str) -> list[float]:
    """Steps whose row has the column, but no finite number in it."""
    steps = [number(row, "step") for row in rows if key in row and number(row, key) is None]
    return [step for step in steps if step is not None]


def _usual_most_after(step: float, curve: Line) -> float | None:
    """All but the spikes: with these, or what comes before, the slow fall would look flat."""
    values = sorted(y for x, y in curve.points if x > step)
    return values[int(0.995 * len(values))] if values else None


def _steps_of(events: Sequence[Row], kinds: Sequence[str]) -> list[float]:
    steps = [number(row, "step") for row in events if row.get("event") in kinds]
    return [step for step in steps if step is not None]
