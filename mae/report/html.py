"""HTML as text, escaped where it is made."""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NewType

Markup = NewType("Markup", str)
"""text that is HTML already; everything else is escaped on its way in"""


def tag(name: str, /, *content: Markup, **attributes: Any) -> Markup:
    """An element around `content`.

    Underscores in attribute names become dashes, one at the end goes (`class_`).  True writes the
    name alone; None and False leave it out.
    """
    return Markup(f"<{name}{_attributes(attributes)}>{''.join(content)}</{name}>")


def void(name: str, /, **attributes: Any) -> Markup:
    """An element without content."""
    return Markup(f"<{name}{_attributes(attributes)}/>")


def text(value: Any) -> Markup:
    """Anything, as text: nothing in it is markup."""
    return Markup(html.escape(str(value), quote=True))


def join(parts: Iterable[Markup]) -> Markup:
    """Markup one after the other."""
    return Markup("".join(parts))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Markup]], class_: str | None = None
) -> Markup:
    """Rows of Markup cells under plain headings; scrolls sideways where it does not fit."""
    head = tag("tr", *(tag("th", text(name), scope="col") for name in heads))
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", *body)), class_=f"wide {class_ or ''}"
    )


def _attributes(attributes: dict[str, Any]) -> str:
    written = ""
    for key, value in attributes.items():
        name = key.removesuffix("_").replace("_", "-")
        if value is True:
            written += f" {name}"
        elif value is not None and value is not False:
            written += f' {name}="{html.escape(str(value), quote=True)}"'
    return written
