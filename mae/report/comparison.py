"""HTML page of `mae report A B …`: several runs beside each other."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mae.base.errors import UserError
from mae.evaluation.diagnosis import recent
from mae.evaluation.run_record import number
from mae.pictures.html import Markup, document, tag, text, write_document
from mae.report import evaluations, lists
from mae.report.diagnosis import findings_of
from mae.report.figures import POSITION
from mae.report.overlays import (
    FEATURES,
    OPTIMISATION,
    Compared,
    Figure,
    has_other_batches,
    learning,
    overlaid,
    rows_of,
)
from mae.report.run_record import CHOSEN, read_record, state
from mae.report.scales import formatted
from mae.report.starts import commands

STYLES = "abcdefgh"
"""colours of the runs"""
NOT_SETTINGS = ("output",)
"""settings that always differ"""


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write `out`, one self-contained HTML file on several runs, and return it.

    Raises UserError where there are more than can be told apart, a folder is given twice or holds
    no run, or `out` cannot be written.
    """
    if len(folders) > len(STYLES):
        raise UserError(f"report: {len(folders)} runs; at most {len(STYLES)} go on one page")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("report: a run is given twice")
    now = time.time()
    records = [read_record(folder) for folder in folders]
    runs = [
        Compared(label, style, record, state(record, now))
        for label, style, record in zip(labels(folders), STYLES, records, strict=False)
    ]
    write_document(render_comparison(runs, now), out)
    return out


def labels(folders: Sequence[Path]) -> list[str]:
    """Shortest ends of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names


def render_comparison(runs: Sequence[Compared], now: float) -> str:
    """HTML of the whole page at time `now`, in seconds since 1970."""
    by_images = has_other_batches(runs)
    body = tag(
        "main",
        tag("h1", text(f"{len(runs)} runs")),
        *_notes(runs),
        *_section("Runs", _overview(runs)),
        *_section("Settings that differ", *_settings(runs)),
        *_section("Learning", _axis(by_images), overlaid(runs, learning(runs), by_images)),
        *_section("Optimisation and speed", overlaid(runs, OPTIMISATION, by_images)),
        *_features(runs, by_images),
        *_evaluations(runs),
        *_panels(runs),
        *_section("Commands", *_commands(runs)),
        tag("footer", text(f"Written by mae report, {lists.clock(now)}.")),
    )
    return document(f"{', '.join(run.label for run in runs)} – mae report", body)


def _axis(by_images: bool) -> Markup:
    words = (
        "The x-axis is images seen: the runs have different batches."
        if by_images
        else "The x-axis is optimizer steps, of as many images in all runs."
    )
    return tag("p", text(words), class_="lead")


def _notes(runs: Sequence[Compared]) -> Iterator[Markup]:
    """Lines on what must be known to compare the runs."""
    starts = [run.record.starts[-1] if run.record.starts else {} for run in runs]
    if len({start.get("data") for start in starts} - {None}) > 1:
        yield tag("p", text("Trained on different images."), class_="lead")
    if len({start.get("held_out") for start in starts} - {None}) > 1:
        words = "Measured on different held-out images: those figures do not compare."
        yield tag("p", text(words), class_="lead")
    if differing := _other_losses(runs):
        words = f"The losses do not compare: the runs differ in {', '.join(differing)}."
        yield tag("p", text(words), class_="lead")
    for run in runs:
        for note in run.record.notes:
            yield tag("p", text(f"{run.label}: {note}"), class_="lead")


def _other_losses(runs: Sequence[Compared]) -> list[str]:
    """Settings that define the loss and are not the same in all runs, with their values."""
    known = [(run.record.declared, run.record.settings) for run in runs if run.record.settings]
    objectives = dict.fromkeys(lists.shown_value(one.get("objective", "")) for _, one in known)
    if len(objectives) > 1:
        return [f"objective ({', '.join(objectives)})"]
    defined = [declared.loss_definition(one) for declared, one in known if declared]
    found = []
    for key in defined[0] if defined else ():
        values = dict.fromkeys(lists.shown_value(one[key]) for one in defined)
        if len(values) > 1:
            found.append(f"{key} ({', '.join(values)})")
    return found


def _heads(runs: Sequence[Compared], *first: str) -> Markup:
    heads = [tag("th", text(word), scope="col") for word in first]
    heads += [
        tag("th", tag("i", class_=f"key {run.style}"), text(run.label), scope="col") for run in runs
    ]
    return tag("thead", tag("tr", *heads))


def _table(
    runs: Sequence[Compared], first: Sequence[str], rows: Sequence[Sequence[Markup]]
) -> Markup:
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    inside = tag("table", _heads(runs, *first), tag("tbody", *body), class_="runs")
    return tag("div", inside, class_="wide")


def _overview(runs: Sequence[Compared]) -> Markup:
    """Table of states and last numbers, a column for each run."""
    rows = [
        [
            "objective",
            *(lists.shown_value(run.record.settings.get("objective", "")) for run in runs),
        ],
        ["state", *(_state(run) for run in runs)],
        ["findings", *(_findings(run) for run in runs)],
        *_last_numbers(runs),
        ["bad images", *(f"{len(run.record.quarantine):,}" for run in runs)],
        ["last written", *(_written(run) for run in runs)],
    ]
    return _table(runs, [""], [list(map(text, row)) for row in rows])


def _last_numbers(runs: Sequence[Compared]) -> Iterator[list[str]]:
    epoch = Figure("metrics", "epoch", "epoch", formatted(".4g"))
    seen = Figure("metrics", "samples", "images seen")
    speed = OPTIMISATION[2]._replace(title="images/s")
    skipped = Figure("metrics", "skipped", "skipped steps", formatted(",.0f"))
    for figure in (epoch, seen, *learning(runs), *FEATURES, speed, skipped):
        values = [_last(run, figure) for run in runs]
        if any(value is not None for value in values):
            cells = ["–" if value is None else figure.form(value) for value in values]
            yield [figure.title, *cells]


def _last(run: Compared, figure: Figure) -> float | None:
    """The newest number of a column; of measures of training the mean over the last rows."""
    rows = rows_of(run, figure.source)
    known = [row for row in rows if number(row, figure.key) is not None]
    if figure.source == "metrics" and figure.key not in POSITION:
        return recent(known, figure.key)
    return number(known[-1], figure.key) if known else None


def _state(run: Compared) -> str:
    reached = run.reached
    of = f" of {reached.steps:,}" if reached.steps else ""
    return reached.word + (f", step {reached.step:,}{of}" if reached.step else "")


def _findings(run: Compared) -> str:
    levels = [one.level for one in findings_of(run.record)]
    counts = {level: levels.count(level) for level in ("bad", "watch", "good")}
    return ", ".join(f"{count} {level}" for level, count in counts.items() if count) or "none"


def _written(run: Compared) -> str:
    return "–" if run.record.written is None else lists.clock(run.record.written)


def _settings(runs: Sequence[Compared]) -> Iterator[Markup]:
    """Table of the settings that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.record.settings)
    rows = []
    for key in keys:
        values = [run.record.settings.get(key, ABSENT) for run in runs]
        if (
            key not in NOT_SETTINGS
            and not key.startswith(CHOSEN)
            and any(value != values[0] for value in values)
        ):
            rows.append([lists.key_markup(key), *map(_value, values)])
    if rows:
        yield _table(runs, ["setting"], rows)
    else:
        yield lists.none("None: all settings are the same.")


ABSENT: Any = object()
"""value of a setting that a run does not have"""


def _value(value: Any) -> Markup:
    return text("–") if value is ABSENT else lists.code_markup(value)


def _features(runs: Sequence[Compared], by_images: bool) -> Iterator[Markup]:
    drawn = overlaid(runs, FEATURES, by_images)
    if "<figure" in drawn:
        yield from _section("Features", drawn)


def _evaluations(runs: Sequence[Compared]) -> Iterator[Markup]:
    """Table of evaluations, a column for each run."""
    results = [evaluations.results(run.record) for run in runs]
    keys = dict.fromkeys(key for found in results for key in found)
    if not keys:
        return
    rows = []
    for key in list(keys)[: evaluations.MOST_ROWS]:
        cells = [found.get(key, "–") for found in results]
        rows.append([text(word) for word in (*key, *cells)])
    lead = tag("p", text("In brackets 95 % intervals over the test images."), class_="lead")
    heads = ["evaluation", "of", "labels", "measure"]
    yield from _section("Evaluations", lead, _table(runs, heads, rows))


def _panels(runs: Sequence[Compared]) -> Iterator[Markup]:
    """The last panel of each run."""
    shown = []
    for run in runs:
        for path in run.record.panels[-1:]:
            picture = lists.read_picture(path)
            title = run.label if picture.step is None else f"{run.label}, step {picture.step:,}"
            shown.append(lists.enlargeable(picture, title))
    if shown:
        yield from _section("Last panels", tag("div", *shown, class_="panels"))


def _commands(runs: Sequence[Compared]) -> Iterator[Markup]:
    for run in runs:
        yield tag("h3", tag("i", class_=f"key {run.style}"), text(run.label))
        yield from commands(run.record)


def _section(title: str, *content: Markup) -> Iterator[Markup]:
    yield tag("section", tag("h2", text(title)), *content)
