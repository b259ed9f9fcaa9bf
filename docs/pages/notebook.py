"""Notebooks as pages: their text, code and kept output."""

import json
import re
from typing import Any

TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


def notebook_page(text: str) -> str:
    """Markdown of a notebook file (nbformat 4)."""
    lines: list[str] = []
    for cell in json.loads(text)["cells"]:
        source = _joined(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
        elif cell["cell_type"] == "code" and source:
            lines += [_fenced(source, "python"), ""]
            lines += [shown for output in cell.get("outputs", []) if (shown := _output(output))]
    return "\n".join(lines)


def _output(output: dict[str, Any]) -> str:
    """One output of a cell: a picture, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        source = _joined(data["image/png"]).replace("\n", "")
        return f'<img alt="output of the cell above" src="data:image/png;base64,{source}">\n'
    text = _joined(output.get("text", data.get("text/plain", "")))
    text = TERMINAL.sub("", text).strip("\n")
    return _fenced(text, "text") + "\n" if text else ""


def _fenced(text: str, language: str) -> str:
    """Code block with a fence longer than any in `text`."""
    longest = max((len(found) for found in re.findall(r"^`{3,}", text, re.M)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
