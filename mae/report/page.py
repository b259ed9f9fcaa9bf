"""HTML page of `mae report`: its sections from top to bottom."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mae.evaluation.diagnosis import recent
from mae.evaluation.run_record import number
from mae.objectives.charts import Chart
from mae.objectives.declaration import Declaration
from mae.pictures.html import Markup, document, tag, text, write_document
from mae.report import evaluations, figures, lists, starts
from mae.report.bad_images import bad_images
from mae.report.diagnosis import findings_of
from mae.report.run_record import Record, State, read_record, state
from mae.report.scales import compact, formatted, percent


def write_report(run_folder: Path, out: Path) -> Path:
    """Write `out`, one self-contained HTML file, and return it.

    Raises UserError where there is no run, or `out` cannot be written.
    """
    write_document(render(read_record(run_folder), time.time()), out)
    return out


def render(record: Record, now: float) -> str:
    """HTML of the whole page at time `now`, in seconds since 1970."""
    reached = state(record, now)
    body = tag(
        "main",
        *_head(record, reached),
        *_section("Diagnosis", _diagnosis(record)),
        *_learning(record),
        *_optimisation(record),
        *_features(record),
        *_evaluations(record),
        *_panels(record),
        *_section("Events", *lists.events(record)),
        *_section("Bad images", bad_images(record)),
        *_section("Data", *starts.data(record)),
        *_section("Settings", *lists.settings(record)),
        *_section("Commands", *starts.commands(record)),
        *_section("Versions and hardware", *starts.starts(record)),
        tag("footer", text(f"Written by mae report, {lists.clock(now)}.")),
    )
    return document(f"{record.name} – mae report", body)


def _learning(record: Record) -> Iterator[Markup]:
    declared = record.declared
    about = _lead(declared.about_learning) if declared else Markup("")
    charts = _charts(record, figures.learning(record))
    yield from _section("Learning", about, _legend(record), charts)
    if "evaluation" in record.evaluations or (declared and declared.supervises_encoder):
        yield from _section("Class by class", *evaluations.class_by_class(record))


def _optimisation(record: Record) -> Iterator[Markup]:
    yield from _section("Optimisation", _charts(record, figures.optimisation(record)))
    run = record.recorded._replace(metrics=record.metrics[1:])  # the first row is start-up
    seen = figures.marks(record)._replace(faults=())
    yield from _section("Speed", figures.grid(figures.SPEED, run, seen))


def _features(record: Record) -> Iterator[Markup]:
    if figures.has_features(record):
        seen = figures.marks(record)._replace(faults=())
        charts = figures.grid(figures.FEATURES, record.recorded, seen)
        yield from _section("Features", _about_features(record), charts)


def _evaluations(record: Record) -> Iterator[Markup]:
    if any(name in record.evaluations for name in evaluations.NAMES):
        yield from _section("Evaluations", *evaluations.evaluations(record))


def _panels(record: Record) -> Iterator[Markup]:
    title = record.declared.panels_title if record.declared else Declaration.panels_title
    if record.panels or title:
        yield from _section(title or "Panels", lists.panels(record))


def _charts(record: Record, charts: Sequence[Chart]) -> Markup:
    return figures.grid(charts, record.recorded, figures.marks(record))


def _lead(words: str) -> Markup:
    return tag("p", text(words), class_="lead") if words else Markup("")


def _section(title: str, *content: Markup) -> Iterator[Markup]:
    yield tag("section", tag("h2", text(title)), *content)


def _head(record: Record, reached: State) -> Iterator[Markup]:
    yield tag("h1", text(record.name))
    at = f"at step {reached.step:,}" + (f" of {reached.steps:,}" if reached.steps else "")
    written = f", last written {lists.clock(record.written)}" if record.written else ""
    lead = reached.word.capitalize() + (f" {at}" if reached.step else "") + written
    yield tag("p", text(lead), class_="lead")
    if reached.word in ("stopped", "failed") and record.exit_status is not None:
        yield tag("p", text(f"Reason: {record.exit_status.reason}"), class_="lead")
    yield from (tag("p", text(note), class_="lead") for note in record.notes)
    if reached.steps:
        yield tag("progress", value=reached.step, max=reached.steps, aria_label="progress")
    shown = [
        tag("div", tag("span", text(name)), tag("b", text(value))) for name, value in _tiles(record)
    ]
    if shown:
        yield tag("div", *shown, class_="tiles")


def _tiles(record: Record) -> Iterator[tuple[str, str]]:
    """Name and value of the last numbers of the run, where there are any.

    Measures of training are means over the last rows.
    """
    rows = record.metrics
    last, health = (found[-1] if found else {} for found in (rows, record.health))
    metrics = (
        [one for one in record.declared.metrics if one.on_progress_line] if record.declared else []
    )
    tiles: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("epoch", number(last, "epoch"), lambda epoch: f"{epoch:.4g}"),
        ("images seen", number(last, "samples"), compact),
        ("loss", recent(rows, "loss"), compact),
    ]
    for metric in metrics:  # measured on few images: percentages are rounded
        form = percent if metric.format.endswith("%") else formatted(metric.format)
        tiles.append((metric.tile or metric.label, recent(rows, metric.key), form))
    for metric in metrics:
        form = formatted(metric.format)
        tiles.append((f"held-out {metric.label}", number(health, metric.key), form))
    chance = number(health, "chance")
    tiles += [
        (
            "k-NN" if chance is None else f"k-NN, chance {percent(chance)}",
            number(health, "knn"),
            percent,
        ),
        ("RankMe", number(health, "rankme"), lambda rank: f"{rank:.0f}"),
        ("images/s", recent(rows, "images_per_second"), lambda speed: f"{speed:,.0f}"),
        ("data wait", recent(rows, "data_wait"), percent),
    ]
    yield from ((name, form(value)) for name, value, form in tiles if value is not None)


def _diagnosis(record: Record) -> Markup:
    items = [
        tag(
            "li",
            tag("span", text(finding.level), class_=f"level {finding.level}"),
            tag("b", text(finding.text)),
            tag("p", text(finding.reason)),
        )
        for finding in findings_of(record)
    ]
    return tag("ul", *items, class_="findings") if items else lists.none("Nothing to diagnose yet.")


def _legend(record: Record) -> Markup:
    seen = figures.marks(record)
    kinds = [
        ("is-warmup", "warm-up", seen.warmup > 0),
        ("is-restart", "restart", bool(seen.restarts)),
        ("is-fault", "step skipped, spiked or rolled back", bool(seen.faults)),
    ]
    known = [
        tag("span", tag("i", class_=class_), text(name))
        for class_, name, is_there in kinds
        if is_there
    ]
    over = tag("span", text("The x-axis of all charts is optimizer steps."))
    return tag("p", over, *known, class_="legend")


def _about_features(record: Record) -> Markup:
    images = f"{number(record.health[-1], 'images') or 0:,.0f} held-out images"
    words = (
        f"Of {images}. Spread is 1 where features point in all directions and 0 where all are the "
        "same; cosine is the mean similarity of two images; dead is the share of dimensions that "
        "do not vary."
    )
    declared = record.declared
    more = f" {declared.about_features}" if declared and declared.about_features else ""
    return _lead(words + more)
