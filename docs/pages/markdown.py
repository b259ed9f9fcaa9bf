"""Markdown of plain texts: tables, and characters that have a meaning."""

import re
from collections.abc import Iterable

MEANINGFUL = re.compile(r"([\\*_<>\[\]|#$~])")
SETTING = re.compile(r"(?<![\w`/])(?:--[a-z][a-z-]+|[a-z]+\.[a-z_]+(?:=[\w.]+)?)(?![\w`(])")
"""options and settings, which are set as code"""


def plain(text: str) -> str:
    """Markdown that shows `text` in one line; parts in backticks, options and settings as code."""
    parts = " ".join(text.split()).split("`")
    for number in range(0, len(parts), 2):
        pieces, last = [], 0
        for found in SETTING.finditer(parts[number]):
            pieces += [MEANINGFUL.sub(r"\\\1", parts[number][last : found.start()])]
            pieces += [code(found[0])]
            last = found.end()
        parts[number] = "".join([*pieces, MEANINGFUL.sub(r"\\\1", parts[number][last:])])
    parts[1::2] = [code(part) for part in parts[1::2]]
    return "".join(parts)


def code(text: str) -> str:
    """`text` as code that may stand in a table."""
    quoted = " ".join(text.split()).replace("|", r"\|")
    return f"`{quoted}`" if quoted else "–"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; its cells are Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
