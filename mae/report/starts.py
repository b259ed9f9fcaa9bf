"""Records of the starts of a run: its data, its command, versions and hardware."""

from collections.abc import Iterator, Mapping
from typing import Any

from mae.base.disk_space import gigabytes
from mae.config.types import flatten
from mae.evaluation.run_record import number
from mae.pictures.html import Markup, table, tag, text
from mae.report.lists import code_markup, key_markup, none, readable_time, shown_value
from mae.report.run_record import Record

MOST_COMMANDS = 12
"""maximum number of starts whose command is shown"""
LONGEST_COMMAND = 4000
"""maximum number of characters of a command"""
OF_EACH_START = ("time", "step", "event", "pid")
"""keys of a start that always differ"""
OWN_SECTIONS = ("cautions", "command", "dataset")
"""keys of a start that other sections show"""


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
        ("held-out shards", shown_value(shown.get("data.val") or _share(shown))),
        ("held-out images", _count(facts, "held_out")),
        ("pixels", _pixels(record)),
    ]
    cells = [[text(name), text(value)] for name, value in rows if value]
    yield table(["", ""], cells)


def _share(settings: Mapping[str, Any]) -> str:
    share = settings.get("data.val_share")
    return f"{share:.0%} of data.train" if isinstance(share, float) and share else "none"


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
    classes = number(facts, "classes") or 0
    return f"{labelled:,.0f} images, {classes:,.0f} class{'es' * (classes != 1)}"


def _pixels(record: Record) -> str:
    found = record.settings
    names = {"in_chans": "channels", "bits": "bits", "img_size": "size", "mean": "mean"}
    names |= {"std": "standard deviation"}
    known = {word: found.get(f"data.{key}") for key, word in names.items()}
    return "; ".join(f"{word} {shown_value(v)}" for word, v in known.items() if v is not None)


def commands(record: Record) -> Iterator[Markup]:
    """Command or call of each start, as it was typed, with time, step and folder."""
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
        about = f"{readable_time(start.get('time'))}: {word} on {host}, in {folder}"
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
