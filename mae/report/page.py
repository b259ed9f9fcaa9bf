"""The report of a run: what it says, top to bottom, and the file that says it."""

import time
from collections.abc import Iterator
from pathlib import Path

from mae.evaluation.classifier_verdicts import judge_classifier
from mae.evaluation.rows import number
from mae.evaluation.verdicts import judge
from mae.report import curves, lists, results
from mae.report.document import document, write_document
from mae.report.html import Markup, tag, text
from mae.report.record import Record, State, read_record, state
from mae.report.scales import compact, percent


def write_report(run_folder: Path, out: Path) -> Path:
    """Write `out`, one HTML file with everything in it, and return it.

    Raises UserError where there is no run, or `out` cannot be written.
    """
    write_document(render(read_record(run_folder), time.time()), out)
    return out


def render(record: Record, now: float) -> str:
    """The whole page, as of `now` in seconds since 1970."""
    reached = state(record, now)
    body = tag(
        "main",
        *_head(record, reached),
        *_section("Verdict", _verdicts(record)),
        *(_of_a_classifier(record) if record.is_classifier else _of_pretraining(record)),
        *_section("Events", *lists.events(record)),
        *_section("Unreadable images", lists.quarantine(record)),
        *_section("Settings", *lists.settings(record)),
        *_section("Versions and hardware", *lists.starts(record)),
        tag("footer", text(f"Written by mae report, {lists.clock(now)}.")),
    )
    return document(f"{record.name} – mae report", body)


def _of_pretraining(record: Record) -> Iterator[Markup]:
    yield from _section("Learning", _legend(record), curves.grid(curves.learning(record)))
    yield from _optimisation(record)
    yield from _section("Features", _about_features(record), curves.grid(curves.features(record)))
    if record.evaluations:
        yield from _section("Evaluations", *results.evaluations(record))
    yield from _section("Reconstructions", lists.panels(record))


def _of_a_classifier(record: Record) -> Iterator[Markup]:
    about = tag(
        "p",
        text(
            "Training figures are of augmented and mixed images with softened labels, as far as "
            "the recipe asks for these. Held-out images are clean, so that theirs may well be "
            "better; the band is their 95 % interval."
        ),
        class_="lead",
    )
    charts = curves.grid(curves.classification(record))
    yield from _section("Learning", about, _legend(record), charts)
    yield from _section("Class by class", *results.class_by_class(record))
    yield from _optimisation(record)


def _optimisation(record: Record) -> Iterator[Markup]:
    yield from _section("Optimisation", curves.grid(curves.optimisation(record)))
    yield from _section("Speed", curves.grid(curves.speed(record)))


def _section(title: str, *content: Markup) -> Iterator[Markup]:
    yield tag("section", tag("h2", text(title)), *content)


def _head(record: Record, reached: State) -> Iterator[Markup]:
    yield tag("h1", text(record.name))
    at = f"at step {reached.step:,}" + (f" of {reached.steps:,}" if reached.steps else "")
    written = f", last written {lists.clock(record.written)}" if record.written else ""
    said = reached.word.capitalize() + (f" {at}" if reached.step else "") + written
    yield tag("p", text(said), class_="lead")
    yield from (tag("p", text(note), class_="lead") for note in record.notes)
    if reached.steps:
        yield tag("progress", value=reached.step, max=reached.steps, aria_label="progress")
    last, health = (rows[-1] if rows else {} for rows in (record.metrics, record.health))
    tiles = [
        ("epoch", number(last, "epoch"), lambda epoch: f"{epoch:.4g}"),
        ("images seen", number(last, "samples"), compact),
        ("loss", number(last, "loss"), compact),
        ("R²", number(last, "r2"), lambda r2: f"{r2:.3f}"),
        ("training accuracy", number(last, "accuracy"), percent),
        ("held-out accuracy", number(health, "accuracy"), lambda share: f"{share:.1%}"),
        ("held-out R²", number(health, "r2"), lambda r2: f"{r2:.3f}"),
        ("RankMe", number(health, "rankme"), lambda rank: f"{rank:.0f}"),
        ("images/s", number(last, "images_per_second"), lambda speed: f"{speed:,.0f}"),
        ("data wait", number(last, "data_wait"), percent),
    ]
    shown = [
        tag("div", tag("span", text(name)), tag("b", text(form(value))))
        for name, value, form in tiles
        if value is not None
    ]
    if shown:
        yield tag("div", *shown, class_="tiles")


def _verdicts(record: Record) -> Markup:
    warmup = number(record.settings, "optim.warmup_epochs") or 0.0
    metrics, health = record.metrics, record.health
    if record.is_classifier:
        classes = number(record.settings, "finetune.num_classes")
        evaluation = record.evaluations.get("evaluation")
        verdicts = judge_classifier(metrics, health, warmup, classes, evaluation)
    else:
        verdicts = judge(metrics, health, warmup)
    found = [
        tag(
            "li",
            tag("span", text(verdict.level), class_=f"level {verdict.level}"),
            tag("b", text(verdict.text)),
            tag("p", text(verdict.reason)),
        )
        for verdict in verdicts
    ]
    return tag("ul", *found, class_="verdicts") if found else lists.none("Nothing to judge yet.")


def _legend(record: Record) -> Markup:
    seen = curves.marks(record)
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
    over = tag("span", text("All charts run over optimizer steps."))
    return tag("p", over, *known, class_="legend")


def _about_features(record: Record) -> Markup:
    if not record.health:
        return Markup("")
    last = record.health[-1]
    images = f"{number(last, 'images') or 0:,.0f} held-out images"
    return tag(
        "p",
        text(
            f"Of {images}. Spread is 1 where features point everywhere and 0 where all are the "
            "same; cosine is the mean similarity of two images; dead is the share of dimensions "
            "that do not vary. k-NN is a smoke signal for masked autoencoders: watch its direction."
        ),
        class_="lead",
    )
