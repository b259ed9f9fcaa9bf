"""An HTML file with everything in it, and nothing that runs."""

import os
from contextlib import suppress
from pathlib import Path

from mae.base.errors import UserError
from mae.report.html import Markup, tag, text, void
from mae.report.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""for the browser: nothing is fetched and nothing runs, whatever the content holds"""


def document(title: str, body: Markup, css: str = "") -> str:
    """A whole page in the report's style, with `css` added to it."""
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=POLICY),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", text(title)),
        tag("style", Markup(CSS + css)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def write_document(page: str, out: Path) -> None:
    """Write whole or not at all.  Raises UserError where `out` cannot be written."""
    part = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
