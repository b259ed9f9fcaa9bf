"""Panels as data URIs, made small enough to be carried in one file."""

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
from mae.report.record import Record, changed_settings, default_settings

MOST = 6
"""panels shown"""

LARGEST_SIDE = 1600
"""pixels"""

LARGEST_PNG = 300_000
"""bytes; a larger picture becomes a JPEG"""


class Picture(NamedTuple):
    """A panel."""

    step: int | None
    uri: str
    """data:image/…; "" where the file is damaged"""
    name: str
    """of the file"""
    size: tuple[int, int]
    """width and height in pixels"""


def spaced(paths: Sequence[Path], most: int = MOST) -> list[Path]:
    """The first, the last, and evenly spaced ones in between."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def read_picture(path: Path) -> Picture:
    """A panel as it will be shown."""
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


MOST_EVENTS = 40
MOST_QUARANTINED = 20
OF_EACH_START = ("time", "step", "event", "pid")
LONGEST = 300
"""characters of a value that are shown"""


def panels(record: Record) -> Markup:
    """Panels as training went on; a click enlarges."""
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
    told = f"{len(shown)} of {count:,} panels. " if len(shown) < count else ""
    lead = tag("p", text(f"{told}Click one to enlarge it, again to put it back."), class_="lead")
    return join([lead, tag("div", *shown, class_="panels")])


def events(record: Record) -> Iterator[Markup]:
    """What happened when: counts, and the last ones."""
    found = record.events
    if not found:
        yield none("None recorded.")
        return
    counts = Counter(_shown(row.get("event", "?")) for row in found)
    told = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common(12))
    if len(found) > MOST_EVENTS:
        told += f"; the last {MOST_EVENTS} of {len(found):,}, see events.jsonl"
    yield tag("p", text(told), class_="lead")
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
    """Images that could not be used: how many, and the first."""
    rows = record.quarantine
    if not rows:
        return none("None.")
    told = f"{len(rows):,} replaced by others" + (
        f"; the first {MOST_QUARANTINED}, see quarantine.jsonl"
        if len(rows) > MOST_QUARANTINED
        else ""
    )
    keys = ("step", "shard", "key", "error")
    cells = [[text(_shown(row.get(key, ""))) for key in keys] for row in rows[:MOST_QUARANTINED]]
    return join([tag("p", text(told), class_="lead"), table(keys, cells)])


def settings(record: Record) -> Iterator[Markup]:
    """What differs from the defaults, and, folded, everything."""
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
    """Versions and hardware of the last start, and what was otherwise before."""
    found = [flatten(start) for start in record.starts]
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
        told = f"The last of {len(found)} starts. "
        told += f"Not always the same: {', '.join(differing)}." if differing else ""
        yield tag("p", text(told), class_="lead")
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
    """A dotted key that may be broken behind each of its words."""
    parts = re.split(r"(?<=[._])", name)
    return tag("code", *(join([text(part), void("wbr")]) for part in parts))


def none(words: str) -> Markup:
    """A word where there is nothing to list."""
    return tag("p", text(words), class_="none")


def _time(value: Any) -> str:
    """ISO as people read it, anything else as it is."""
    try:
        return clock(datetime.fromisoformat(str(value)).timestamp())
    except (ValueError, OverflowError, OSError):
        return "" if value is None else str(value)


def clock(seconds: float) -> str:
    """Seconds since 1970 as people read them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
