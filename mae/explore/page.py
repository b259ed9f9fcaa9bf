"""Self-contained HTML page: style sheet, program, arrays and sheets of thumbnails in one file."""

import base64
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from mae.base.files import new_file
from mae.explore.content import Content
from mae.pictures.html import CSS, script_source, text

ASSETS = files("mae.explore") / "assets"
SCRIPTS = (
    "data.js",
    "colours.js",
    "sheets.js",
    "view.js",
    "dots.js",
    "grid.js",
    "overlay.js",
    "state.js",
    "pieces.js",
    "tabs.js",
    "legend.js",
    "image.js",
    "selection.js",
    "galleries.js",
    "about.js",
    "search.js",
    "pointer.js",
    "keyboard.js",
    "main.js",
)
"""parts of the program, in their order"""
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {}"
"""Content-Security-Policy: nothing is fetched, and no script runs but the page's own"""
TYPES = {"float32": "<f4", "int32": "<i4", "int16": "<i2", "uint8": "u1"}
"""types of arrays and their bytes on the page"""


def program() -> str:
    """Script of the page."""
    parts = [(ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def write_page(content: Content, out: Path) -> None:
    """Write the page, whole or not at all.  Raises UserError where `out` cannot be written.

    Sheets come last, so that the map is drawn while they are still being read.
    """
    script = program()
    values = {
        "title": text(content.about["title"]),
        "policy": text(POLICY.format(script_source(script))),
        "style": CSS + (ASSETS / "page.css").read_text(encoding="utf-8"),
        "about": _json(content.about),
        "script": script,
    }
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    head, tail = page.split("<!-- sheets -->")
    with new_file(out) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        before, after = head.split("<!-- arrays -->")
        file.write(_filled(before, values))
        for name, array in content.arrays.items():
            _write_array(file, name, array)
        file.write(_filled(after, values))
        for sheet in content.sheets:
            _write_block(file, "sheet", sheet)
        file.write(_filled(tail, values))


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Replace {{name}} by its value, once: values may hold braces."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _json(value: dict) -> str:
    """JSON without characters that could end the element around it."""
    written = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace("&", "\\u0026")


def _write_array(file: TextIO, name: str, array: npt.NDArray) -> None:
    type_ = str(array.dtype)
    data = np.ascontiguousarray(array).astype(TYPES[type_]).tobytes()
    _write_block(file, "array", data, f' id="array-{name}" data-type="{type_}"')


def _write_block(file: TextIO, class_: str, data: bytes, more: str = "") -> None:
    """Bytes as an element that browsers neither show nor run."""
    file.write(f'<script type="application/octet-stream" class="{class_}"{more}>')
    file.write(base64.b64encode(data).decode())
    file.write("</script>\n")
