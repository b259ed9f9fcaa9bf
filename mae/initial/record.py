"""Record of the weights that a run started from: lines for the user, and init.json."""

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from mae.initial.fit import Loaded
from mae.initial.licence import Licence

FEW = 4
"""tensors that are listed by their names"""


class Initial(NamedTuple):
    """Record of the weights that a run started from."""

    lines: list[str]
    """for the user"""
    record: dict[str, Any]
    """for init.json"""


class Source(NamedTuple):
    """Origin of the weights."""

    name: str
    """as it was written"""
    sha256: str
    licence: Licence
    history: str | None


def initial_of(
    source: Source,
    parts: Mapping[str, Loaded],
    left_out: Mapping[str, str],
    kept: Sequence[str],
    notes: Sequence[str],
) -> Initial:
    """Lines and record of weights that were loaded.

    `parts`: what was loaded, by a word for the part ("": all of the model); `kept`: tensors that
    stay as they were initialised, as is worth a line.
    """
    return Initial(
        [_counts(source, parts, left_out), *_remarks(source, kept, notes)],
        {
            "from": source.name,
            "license": source.licence.name,
            "non_commercial": source.licence.non_commercial,
            "from_scratch": source.licence.from_scratch,
            "history": source.history,
            "keys_loaded": sum(part.tensors for part in parts.values()),
            "left_out": dict(left_out),
            "kept": [key for part in parts.values() for key in part.kept],
            "notes": list(notes),
            "sha256": source.sha256,
        },
    )


def _counts(source: Source, parts: Mapping[str, Loaded], left_out: Mapping[str, str]) -> str:
    loaded = [
        f"{part.tensors} of {part.of} {name} tensors".replace("  ", " ")
        for name, part in parts.items()
    ]
    line = f"init    {' and '.join(loaded)} from {source.name}"
    if left_out:
        reasons = {
            reason: [k for k in left_out if left_out[k] == reason] for reason in left_out.values()
        }
        line += f" (left out: {'; '.join(starmap(_group, reasons.items()))})"
    return line


def _remarks(source: Source, kept: Sequence[str], notes: Sequence[str]) -> list[str]:
    lines = [f"init    {note}" for note in notes]
    if kept:
        lines.append(f"init    {_names(kept)} as initialised: not in the source")
    if source.licence.non_commercial:
        name = (source.licence.name or "unknown").upper()
        lines.append(
            f"init    licence {name}: not for commercial use; noted in init.json and the model card"
        )
    return lines


def _group(reason: str, keys: Sequence[str]) -> str:
    """Few tensors by their names, many by what they are together."""
    return f"{_names(keys)}: {reason}" if len(keys) <= FEW else f"{reason} ({len(keys)} tensors)"


def _names(keys: Sequence[str]) -> str:
    if len(keys) <= FEW:
        return ", ".join(keys)
    return f"{keys[0]} to {keys[-1]} ({len(keys)} tensors)"
