"""Charts of a run: those of any run, those its objective declares, and columns nobody declares."""

from collections.abc import Iterable, Iterator, Sequence

from mae.evaluation.rows import Recorded, Row, number, series
from mae.objectives.declaration import LOSS, Chart, Curve, Declaration, Level
from mae.report.record import Record

OPTIMISATION = (
    Chart("Learning rate", (Curve("lr", "lr"),), always=0.0),
    Chart("Gradient norm", (Curve("grad_norm", "grad_norm"),), is_log=True),
)
SKIPPED = Chart("Skipped steps, so far", (Curve("skipped", "skipped"),), always=0.0)

SPEED = (
    Chart("Images per second", (Curve("images_per_second", "images_per_second"),), always=0.0),
    Chart("Time spent waiting for data", (Curve("data_wait", "data_wait"),), is_share=True),
    Chart("Model FLOP utilisation", (Curve("mfu", "mfu"),), is_share=True),
    Chart("Device memory, GB", (Curve("memory_gb", "memory_gb"),), always=0.0),
)


def _first_rankme(run: Recorded) -> float | None:
    found = series(run.health, "rankme")
    return found[0] if found else None


FEATURES = (
    Chart(
        "RankMe, effective dimensions",
        (Curve("rankme", "now", "health"),),
        always=0.0,
        levels=(Level("at first", _first_rankme),),
    ),
    Chart(
        "Spread of the features",
        (
            Curve("spread", "spread", "health"),
            Curve("cosine", "cosine", "health"),
            Curve("dead", "dead", "health"),
        ),
        always=0.0,
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
        if metric.in_line and metric.key not in charted:
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
