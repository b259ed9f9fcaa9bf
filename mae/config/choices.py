"""Settings chosen by rules: each with its reason, as printed and recorded."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WIDEST = 24
"""characters of a value for which the reasons are aligned"""

GIVEN = "given"
"""reason of a setting that the user has given"""


class Choice(NamedTuple):
    """Setting that a rule has chosen."""

    key: str
    """section.key"""
    value: Any
    """value as in YAML"""
    reason: str
    """facts that it follows from, in a few words; "" for a value that was recorded without one"""


def is_given(key: str, given: Collection[str]) -> bool:
    """True where `key`, or a part of its value (`key.…`), is among the keys `given` by the user."""
    return any(one == key or one.startswith(f"{key}.") for one in given)


def power_of_two(number: float) -> int:
    """Largest power of two up to `number`, at least 1."""
    return 2 ** max(0, math.floor(math.log2(max(1.0, number))))


def plain(number: float) -> str:
    """A positive number with two significant digits, as typed: 210, not 2.1e+02."""
    short = float(f"{number:.2g}")
    return f"{short:.0f}" if short >= 10 else f"{short:g}"


def describe_choices(choices: Sequence[Choice]) -> list[str]:
    """One aligned line for each choice: key, value, reason; behind long values it is not."""
    rows = [(key, shown(value), reason) for key, value, reason in choices]
    widths = [
        max((len(row[column]) for row in rows if len(row[column]) <= WIDEST), default=0)
        for column in (0, 1)
    ]
    return [f"  {key:{widths[0]}}  {value:{widths[1]}}  {reason}" for key, value, reason in rows]


def nested(choices: Iterable[Choice]) -> dict[str, Any]:
    """The chosen settings by section, with their reasons, as far as known, in `auto.chosen`."""
    values: dict[str, Any] = {}
    reasons = {}
    for key, value, reason in choices:
        section, name = key.split(".", 1)
        values.setdefault(section, {})[name] = value
        if reason:
            reasons[key] = reason
    values.setdefault("auto", {})["chosen"] = reasons
    return values


def recorded_choices(values: Mapping[str, Any]) -> list[Choice]:
    """Choices recorded in the settings of a run (nested); empty where it has none."""
    auto = values.get("auto")
    reasons = auto.get("chosen") if isinstance(auto, Mapping) else None
    if not isinstance(reasons, Mapping):
        return []
    found = []
    for key, reason in reasons.items():
        section, _, name = str(key).partition(".")
        own = values.get(section)
        if isinstance(own, Mapping) and name in own:
            found.append(Choice(str(key), own[name], str(reason)))
    return found


def shown(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(one)}" for key, one in value.items()) + "}"
    return str(value) or '""'
