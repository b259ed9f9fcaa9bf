"""Results of evaluations with labels, on held-out images: tables of the report."""

from collections.abc import Iterator
from typing import Any

from mae.evaluation.run_record import Row, interval, number
from mae.pictures.html import Markup, join, tag, text, void
from mae.report.lists import none, read_picture
from mae.report.run_record import Record

MOST_ROWS = 60
"""maximum number of rows of a table"""
MOST_ERRORS = 10
"""maximum number of confusions listed"""
NAMES = {
    "probe": "linear probe",
    "probe-mae": "linear probe, protocol mae",
    "attentive": "attentive probe",
    "fewshot": "linear probe, few labels",
    "knn": "k-NN",
    "segment": "segmentation",
}
"""titles of evaluations of frozen features, by the names of their files"""


def evaluations(record: Record) -> Iterator[Markup]:
    """Table with a row for each result of `mae probe`, `mae knn` and so on in the run folder."""
    files = [(name, found) for name, found in record.evaluations.items() if name in NAMES]
    rows = [row for name, found in files for row in _lines(name, found)]
    if not rows:
        yield none("The evaluation files hold no results.")
        return
    lead = "Of the frozen encoder; 95 % intervals over the test images. "
    lead += f"The first {MOST_ROWS} of {len(rows)} results. " if len(rows) > MOST_ROWS else ""
    yield tag("p", text(f"{lead}Details are in the JSON files in the run folder."), class_="lead")
    heads = ["evaluation", "of", "labels", "measure", "result", "95 %", "images", "step"]
    yield _table(heads, 4, rows[:MOST_ROWS])


def results(record: Record) -> dict[tuple[str, ...], str]:
    """(evaluation, of, labels, measure) → result with its interval, of all files of a run."""
    found = {}
    for name, report in record.evaluations.items():
        if name in NAMES:
            for *key, result, bounds, _, _ in _lines(name, report):
                found[tuple(key)] = f"{result} ({bounds})" if bounds else result
    evaluated = record.evaluations.get("evaluation", {})
    if number(evaluated, "accuracy") is not None:
        shown = f"{_share(evaluated, 'accuracy')} ({_interval(evaluated)})"
        found["classifier", "", "all", "accuracy"] = shown
    return found


def class_by_class(record: Record) -> Iterator[Markup]:
    """Accuracy by class, most frequent errors and confusion matrix, from evaluation.json."""
    found = record.evaluations.get("evaluation")
    if not found:
        yield none("Not evaluated yet: mae evaluate RUN --test SHARDS.")
        return
    whole = [
        f"{_share(found, 'accuracy')} ({_interval(found)}) of {_count(found, 'images')} images",
        f"{_share(found, 'balanced_accuracy')} balanced, as the mean of the classes",
        f"cross-entropy {number(found, 'loss') or 0:.3f}",
    ]
    if number(found, "commonest_accuracy") is not None:
        name = _word(found, "commonest_name")
        whole.insert(
            2, f"{_share(found, 'commonest_accuracy')} always answering the commonest, {name}"
        )
    bad = number(found, "bad")
    lead = "; ".join([*whole, f"{bad:,.0f} bad images skipped"] if bad else whole)
    step = (
        f"At step {number(found, 'step'):,.0f} right: " if number(found, "step") is not None else ""
    )
    yield tag("p", text(f"{step}{lead}."), class_="lead")
    picture = read_picture(record.confusion) if record.confusion else None
    if picture and picture.uri:
        width, height = picture.size
        image = void("img", src=picture.uri, alt="confusion matrix", width=width, height=height)
        button = void("input", type="checkbox", aria_label="enlarge the confusion matrix")
        figure = tag("figure", tag("label", button, image))
        yield tag("div", figure, class_="panels one")
    errors = _rows(found, "errors")[:MOST_ERRORS]
    if errors:
        yield tag("h3", text("Most frequent errors"))
        cells = [[_count(e, "images"), _word(e, "class"), _word(e, "taken_for")] for e in errors]
        yield _table(["images", "class", "taken for"], 0, cells, numbers=(0,))
    classes = sorted(_rows(found, "classes"), key=lambda row: number(row, "accuracy") or 0.0)
    if classes:
        yield tag("h3", text("Classes, lowest accuracy first"))
        shown = [
            [
                _word(row, "name"),
                _share(row, "accuracy"),
                _interval(row),
                _count(row, "images"),
                _share(row, "precision"),
            ]
            for row in classes[:MOST_ROWS]
        ]
        if len(classes) > MOST_ROWS:
            yield tag("p", text(f"The first {MOST_ROWS} of {len(classes):,}."), class_="lead")
        yield _table(["class", "right", "95 %", "images", "precision"], 1, shown)


def _lines(name: str, report: Row) -> Iterator[list[str]]:
    """Table rows of a file, which has a list of results or is a single one."""
    title, step = NAMES[name], _count(report, "step")
    images = _count(report, "test_images") or _count(report, "images")
    for row in _rows(report, "results") or [report]:
        words = [_word(row, key) for key in ("encoder", "feature", "classifier", "of")]
        about = " ".join(word for word in words if word)
        measures = [("mean IoU", "mean_iou", "mean_iou_interval")] if "mean_iou" in row else []
        key = "accuracy_interval" if "accuracy_interval" in row else "interval"
        for measure, column, bounds in [*measures, ("accuracy", "accuracy", key)]:
            if number(row, column) is not None:
                found = [_share(row, column), _interval(row, bounds), images, step]
                yield [title, about, _labels(row), measure, *found]
    constant = report.get("always_commonest")
    if isinstance(constant, dict) and number(constant, "accuracy") is not None:
        found = [_share(constant, "accuracy"), _interval(constant), images, step]
        yield [title, "always the commonest class", "none", "accuracy", *found]


def _labels(row: Row) -> str:
    """Number or share of training labels."""
    if number(row, "per_class") is not None:
        return f"{_count(row, 'per_class')} per class"
    percent = number(row, "percent")
    return "all" if percent is None else f"{percent:g} %"


def _table(
    heads: list[str], first: int, rows: list[list[str]], numbers: tuple[int, ...] | None = None
) -> Markup:
    """Table whose columns from `first` on, or in `numbers`, are right-aligned numbers."""
    right = set(range(first, len(heads)) if numbers is None else numbers)
    kinds = ["number" if place in right else "tight" for place in range(len(heads))]
    head = [tag("th", text(h), scope="col", class_=k) for h, k in zip(heads, kinds, strict=True)]
    body = [
        tag("tr", *(tag("td", text(c), class_=k) for c, k in zip(row, kinds, strict=True)))
        for row in rows
    ]
    inside = join([tag("thead", tag("tr", *head)), tag("tbody", *body)])
    return tag("div", tag("table", inside, class_="narrow"), class_="wide")


def _rows(report: Row, key: str) -> list[dict[str, Any]]:
    found = report.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _word(row: Row, key: str) -> str:
    value = row.get(key)
    return value[:100] if isinstance(value, str) else ""


def _share(row: Row, key: str) -> str:
    value = number(row, key)
    return "" if value is None else f"{value:.1%}"


def _interval(row: Row, key: str = "interval") -> str:
    found = interval(row, key)
    return f"{100 * found[0]:.1f}–{100 * found[1]:.1f}" if found else ""


def _count(row: Row, key: str) -> str:
    value = number(row, key)
    return "" if value is None else f"{value:,.0f}"
