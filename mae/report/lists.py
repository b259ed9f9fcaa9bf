"""Lists of the report: panels, events, settings."""

import base64
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mae.config.validation import INTERVALS
from mae.evaluation.run_record import number
from mae.pictures.html import Markup, join, table, tag, text, void
from mae.report.run_record import Record, changed_settings, default_settings

MOST = 6
"""maximum number of panels"""
LARGEST_SIDE = 1600
"""maximum width and height of a panel in pixels"""
LARGEST_PNG = 300_000
"""maximum size of a PNG in bytes; a larger picture becomes a JPEG"""
MOST_EVENTS = 40
"""maximum number of events"""
NOTHING = Markup("")
LONGEST = 300
"""maximum number of characters of a value"""


class Picture(NamedTuple):
    """Panel as a data URI."""

    step: int | None
    uri: str
    """data:image/…; "" where the file is damaged"""
    name: str
    """name of the file"""
    size: tuple[int, int]
    """width and height in pixels"""


def spaced(paths: Sequence[Path], most: int = MOST) -> list[Path]:
    """First and last path, and evenly spaced ones in between; `most` in all."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def read_picture(path: Path) -> Picture:
    """Panel as a data URI, reduced to LARGEST_SIDE and LARGEST_PNG; damaged ones have none."""
    digits = re.search(r"\d+", path.stem)
    step = int(digits[0]) if digits else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            uri, size = _encoded(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning):
        return Picture(step, "", path.name, (0, 0))
    return Picture(step, uri, path.name, size)


def _encoded(path: Path) -> tuple[str, tuple[int, int]]:
    with Image.open(path) as file:
        image = file.convert("RGB")
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    kind, data = "png", _written(image, "PNG", optimize=True)
    if len(data) > LARGEST_PNG:
        kind, data = "jpeg", _written(image, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", image.size


def _written(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def panels(record: Record) -> Markup:
    """Panels in the order of training; a click enlarges one."""
    pictures = [read_picture(path) for path in spaced(record.panels)]
    shown = []
    for picture in pictures:
        title = picture.name if picture.step is None else f"step {picture.step:,}"
        shown.append(enlargeable(picture, title))
    if not shown:
        return none("No panels yet.")
    count = len(record.panels)
    number_shown = f"{len(shown)} of {count:,} panels. " if len(shown) < count else ""
    hint = f"{number_shown}Click one to enlarge it, again to reduce it."
    lead = tag("p", text(hint), class_="lead")
    return join([lead, tag("div", *shown, class_="panels")])


def enlargeable(picture: Picture, title: str) -> Markup:
    """Figure with a panel that a click enlarges."""
    if not picture.uri:
        return tag("figure", tag("figcaption", text(f"{title}: damaged")))
    width, height = picture.size
    image = void("img", src=picture.uri, alt=f"panel of {title}", width=width, height=height)
    button = void("input", type="checkbox", aria_label=f"enlarge {title}")
    return tag("figure", tag("figcaption", text(title)), tag("label", button, image))


def events(record: Record) -> Iterator[Markup]:
    """Counts of events by kind, and a table of the last ones."""
    found = record.events
    if not found:
        yield none("None recorded.")
        return
    counts = Counter(shown_value(row.get("event", "?")) for row in found)
    lead = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common(12))
    if len(found) > MOST_EVENTS:
        lead += f"; the last {MOST_EVENTS} of {len(found):,}, see events.jsonl"
    yield tag("p", text(lead), class_="lead")
    rows = []
    for row in found[-MOST_EVENTS:]:
        rest = {key: row[key] for key in row if key not in ("time", "step", "event", "reason")}
        details = [f"{key} {shown_value(value)}" for key, value in rest.items()]
        reason = shown_value(row["reason"]) if row.get("reason") else ""
        reason = "" if reason == row.get("event") else reason
        step = number(row, "step")
        at = "" if step is None else f"{step:,.0f}"
        why = ", ".join([reason, *details] if reason else details)
        cells = (readable_time(row.get("time")), at, shown_value(row.get("event", "?")), why)
        rows.append([text(cell) for cell in cells])
    yield table(["time", "step", "event", "reason"], rows)


def settings(record: Record) -> Iterator[Markup]:
    """Table of the settings that differ from the defaults, and a folded one of all."""
    changed = changed_settings(record)
    if not changed:
        yield none("All at their defaults." if record.settings else "Not recorded.")
    else:
        yield tag("p", text(f"{len(changed)} differ from the defaults."), class_="lead")
        known = default_settings(record)
        rows = [
            [
                key_markup(key),
                code_markup(value),
                _default(key, usual) if key in known else text(""),
            ]
            for key, (usual, value) in changed.items()
        ]
        yield table(["setting", "here", "default"], rows)
    if record.settings:
        every = [[key_markup(key), code_markup(value)] for key, value in record.settings.items()]
        title = tag("summary", text(f"All {len(every)} settings"))
        yield tag("details", title, table(["setting", "value"], every))


def _default(key: str, usual: Any) -> Markup:
    is_share = key in INTERVALS and usual is None
    return text("by the run's length") if is_share else code_markup(usual)


def shown_value(value: Any) -> str:
    """Value of a record as text of at most LONGEST characters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and value:
        words = ", ".join(map(shown_value, value))
    else:
        words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


def code_markup(value: Any) -> Markup:
    """Value of a setting."""
    return tag("code", text(shown_value(value)))


def key_markup(name: str) -> Markup:
    """Dotted key that may wrap after each of its words."""
    parts = re.split(r"(?<=[._])", name)
    return tag("code", *(join([text(part), void("wbr")]) for part in parts))


def none(words: str) -> Markup:
    """Paragraph in place of an empty list."""
    return tag("p", text(words), class_="none")


def readable_time(value: Any) -> str:
    """ISO time in readable form, anything else unchanged."""
    try:
        return clock(datetime.fromisoformat(str(value)).timestamp())
    except (ValueError, OverflowError, OSError):
        return "" if value is None else str(value)


def clock(seconds: float) -> str:
    """Readable time, in UTC, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
