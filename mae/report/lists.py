"""Lists of the report: panels, events, unreadable images, settings, starts."""

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

from mae.config.types import flatten
from mae.evaluation.diagnosis import number
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
MOST_QUARANTINED = 20
"""maximum number of unreadable images"""
OF_EACH_START = ("time", "step", "event", "pid")
"""keys of a start that always differ"""
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
        if not picture.uri:
            shown.append(tag("figure", tag("figcaption", text(f"{title}: damaged"))))
            continue
        width, height = picture.size
        image = void("img", src=picture.uri, alt=f"panel of {title}", width=width, height=height)
        button = void("input", type="checkbox", aria_label=f"enlarge {title}")
        shown.append(tag("figure", tag("figcaption", text(title)), tag("label", button, image)))
    if not shown:
        return none("No panels yet.")
    count = len(record.panels)
    number_shown = f"{len(shown)} of {count:,} panels. " if len(shown) < count else ""
    hint = f"{number_shown}Click one to enlarge it, again to reduce it."
    lead = tag("p", text(hint), class_="lead")
    return join([lead, tag("div", *shown, class_="panels")])


def events(record: Record) -> Iterator[Markup]:
    """Counts of events by kind, and a table of the last ones."""
    found = record.events
    if not found:
        yield none("None recorded.")
        return
    counts = Counter(_shown(row.get("event", "?")) for row in found)
    lead = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common(12))
    if len(found) > MOST_EVENTS:
        lead += f"; the last {MOST_EVENTS} of {len(found):,}, see events.jsonl"
    yield tag("p", text(lead), class_="lead")
    rows = []
    for row in found[-MOST_EVENTS:]:
        rest = {key: row[key] for key in row if key not in ("time", "step", "event")}
        details = ", ".join(f"{key} {_shown(value)}" for key, value in rest.items())
        step = number(row, "step")
        at = "" if step is None else f"{step:,.0f}"
        cells = (_time(row.get("time")), at, _shown(row.get("event", "?")), details)
        rows.append([text(cell) for cell in cells])
    yield table(["time", "step", "event", "details"], rows)


def quarantine(record: Record) -> Markup:
    """Number of unreadable images, and a table of the first."""
    rows = record.quarantine
    if not rows:
        return none("None.")
    lead = f"{len(rows):,} replaced by others" + (
        f"; the first {MOST_QUARANTINED}, see quarantine.jsonl"
        if len(rows) > MOST_QUARANTINED
        else ""
    )
    keys = ("step", "shard", "key", "error")
    cells = [[text(_shown(row.get(key, ""))) for key in keys] for row in rows[:MOST_QUARANTINED]]
    return join([tag("p", text(lead), class_="lead"), table(keys, cells)])


def settings(record: Record) -> Iterator[Markup]:
    """Table of the settings that differ from the defaults, and a folded one of all."""
    changed = changed_settings(record)
    if not changed:
        yield none("All at their defaults." if record.settings else "Not recorded.")
    else:
        yield tag("p", text(f"{len(changed)} differ from the defaults."), class_="lead")
        known = default_settings(record)
        rows = [
            [_key(key), _code(value), _code(usual) if key in known else text("")]
            for key, (usual, value) in changed.items()
        ]
        yield table(["setting", "here", "default"], rows)
    if record.settings:
        every = [[_key(key), _code(value)] for key, value in record.settings.items()]
        title = tag("summary", text(f"All {len(every)} settings"))
        yield tag("details", title, table(["setting", "value"], every))


def starts(record: Record) -> Iterator[Markup]:
    """Versions and hardware of the last start, and keys that differ between starts."""
    found = [
        flatten({key: one for key, one in start.items() if key != "cautions"})
        for start in record.starts
    ]
    if not found:
        yield none("Not recorded.")
        return
    last = found[-1]
    if len(found) > 1:
        differing = [
            key
            for key in last
            if key not in OF_EACH_START and any(start.get(key) != last[key] for start in found)
        ]
        lead = f"The last of {len(found)} starts. "
        lead += f"Different between starts: {', '.join(differing)}." if differing else ""
        yield tag("p", text(lead), class_="lead")
    yield table(["", ""], [[_key(key), _code(value)] for key, value in last.items()])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and value:
        words = ", ".join(map(_shown, value))
    else:
        words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


def _code(value: Any) -> Markup:
    return tag("code", text(_shown(value)))


def _key(name: str) -> Markup:
    """Dotted key that may wrap after each of its words."""
    parts = re.split(r"(?<=[._])", name)
    return tag("code", *(join([text(part), void("wbr")]) for part in parts))


def none(words: str) -> Markup:
    """Paragraph in place of an empty list."""
    return tag("p", text(words), class_="none")


def _time(value: Any) -> str:
    """ISO time in readable form, anything else unchanged."""
    try:
        return clock(datetime.fromisoformat(str(value)).timestamp())
    except (ValueError, OverflowError, OSError):
        return "" if value is None else str(value)


def clock(seconds: float) -> str:
    """Readable time, in UTC, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
