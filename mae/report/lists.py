"""Lists of the report: panels, events, data, settings, commands, starts."""

import base64
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mae.base.disk_space import gigabytes
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
MOST_COMMANDS = 12
"""maximum number of starts whose command is shown"""
LONGEST_COMMAND = 4000
"""maximum number of characters of a command"""
OF_EACH_START = ("time", "step", "event", "pid")
"""keys of a start that always differ"""
OWN_SECTIONS = ("cautions", "command", "dataset")
"""keys of a start that other sections show"""
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
        step = number(row, "step")
        at = "" if step is None else f"{step:,.0f}"
        why = ", ".join(filter(None, [reason, *details]))
        cells = (_time(row.get("time")), at, shown_value(row.get("event", "?")), why)
        rows.append([text(cell) for cell in cells])
    yield table(["time", "step", "event", "reason"], rows)


def data(record: Record) -> Iterator[Markup]:
    """Table of facts on the images, as the last start recorded them."""
    found = record.starts[-1].get("dataset") if record.starts else None
    facts = found if isinstance(found, dict) else {}
    shown = record.settings
    rows = [
        ("training shards", shown_value(shown.get("data.train") or shown.get("data.mixture", ""))),
        ("images", _count(facts, "images")),
        ("shards", _shards(facts)),
        ("formats", _formats(facts.get("formats"))),
        ("labels", _labels(facts)),
        ("held-out shards", shown_value(shown.get("data.val") or "none")),
        ("held-out images", _count(facts, "held_out")),
        ("pixels", _pixels(record)),
    ]
    cells = [[text(name), text(value)] for name, value in rows if value]
    yield table(["", ""], cells)


def _count(facts: Mapping[str, Any], key: str) -> str:
    value = number(facts, key)
    return "" if value is None else f"{value:,.0f}"


def _shards(facts: Mapping[str, Any]) -> str:
    size = number(facts, "shard_bytes")
    return _count(facts, "shards") + ("" if size is None else f", {gigabytes(size)}")


def _formats(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{_count(found, name)} {name}" for name in found)


def _labels(facts: Mapping[str, Any]) -> str:
    labelled = number(facts, "labelled")
    if not labelled:
        return "none" if labelled == 0 else ""
    return f"{labelled:,.0f} images, {_count(facts, 'classes')} classes"


def _pixels(record: Record) -> str:
    found = record.settings
    names = {"in_chans": "channels", "bits": "bits", "img_size": "size", "mean": "mean"}
    names |= {"std": "standard deviation"}
    known = {word: found.get(f"data.{key}") for key, word in names.items()}
    return "; ".join(f"{word} {shown_value(v)}" for word, v in known.items() if v is not None)


def settings(record: Record) -> Iterator[Markup]:
    """Table of the settings that differ from the defaults, and a folded one of all."""
    changed = changed_settings(record)
    if not changed:
        yield none("All at their defaults." if record.settings else "Not recorded.")
    else:
        yield tag("p", text(f"{len(changed)} differ from the defaults."), class_="lead")
        known = default_settings(record)
        rows = [
            [key_markup(key), code_markup(value), code_markup(usual) if key in known else text("")]
            for key, (usual, value) in changed.items()
        ]
        yield table(["setting", "here", "default"], rows)
    if record.settings:
        every = [[key_markup(key), code_markup(value)] for key, value in record.settings.items()]
        title = tag("summary", text(f"All {len(every)} settings"))
        yield tag("details", title, table(["setting", "value"], every))


def commands(record: Record) -> Iterator[Markup]:
    """Command of each start, as it was typed, with time, step and folder."""
    found = [start for start in record.starts if start.get("command")]
    if not found:
        yield none("Not recorded.")
        return
    if len(found) > MOST_COMMANDS:
        lead = f"The last {MOST_COMMANDS} of {len(found):,} starts."
        yield tag("p", text(lead), class_="lead")
    items = []
    for start in found[-MOST_COMMANDS:]:
        step = number(start, "step") or 0
        word = f"resumed at step {step:,.0f}" if step else "started"
        host, folder = (shown_value(start.get(key, "")) for key in ("host", "folder"))
        about = f"{_time(start.get('time'))}: {word} on {host}, in {folder}"
        words = str(start["command"])[:LONGEST_COMMAND]
        items.append(tag("li", text(about), tag("pre", text(words))))
    yield tag("ul", *items, class_="starts")


def starts(record: Record) -> Iterator[Markup]:
    """Versions and hardware of the last start, and keys that differ between starts."""
    found = [
        flatten({key: one for key, one in start.items() if key not in OWN_SECTIONS})
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
    yield table(["", ""], [[key_markup(key), code_markup(value)] for key, value in last.items()])


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


def _time(value: Any) -> str:
    """ISO time in readable form, anything else unchanged."""
    try:
        return clock(datetime.fromisoformat(str(value)).timestamp())
    except (ValueError, OverflowError, OSError):
        return "" if value is None else str(value)


def clock(seconds: float) -> str:
    """Readable time, in UTC, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
