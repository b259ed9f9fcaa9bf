"""A sheet as an HTML page: one file, for screens of any width, light or dark."""

import base64
import io

from PIL import Image

from mae.pictures.colours import css_gradient
from mae.pictures.sheet import LARGEST, Cell, Scale, Sheet
from mae.report.document import document
from mae.report.html import Markup, join, tag, text, void

STYLE = """
h1 { font-size: 22px; }
.note { margin: 0 0 5px; font-size: 13.5px; color: var(--soft); max-width: 900px; }
.strip { display: grid; gap: 12px; padding: 14px; margin-top: 14px; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; break-inside: avoid;
  grid-template-columns: repeat(auto-fill, minmax(max(130px, (100% - 96px) / 9), 1fr)); }
.strip.few { grid-template-columns: repeat(auto-fill, minmax(max(130px, (100% - 48px) / 5), 1fr)); }
.strip figure { margin: 0; min-width: 0; }
.strip img { display: block; width: 100%; height: auto; border-radius: 3px; }
.strip .small { image-rendering: pixelated; }
.strip .head { display: block; font-size: 12px; color: var(--soft); margin-bottom: 3px; }
.strip figcaption { font-size: 12.5px; margin-top: 3px; overflow-wrap: anywhere;
  white-space: pre-line; line-height: 1.35; }
.scale { max-width: 420px; font-size: 13px; margin: 16px 0; }
.scale i { display: block; height: 10px; border-radius: 3px; margin: 4px 0 2px; }
.scale div { display: flex; justify-content: space-between; gap: 16px; color: var(--soft);
  font-size: 12.5px; }
@media (max-width: 640px) {
  .strip, .strip.few { grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 10px;
    padding: 10px; }
}
@media print { .scale i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

FEW = 5
"""columns that fit into one line of a wide screen"""


def render_sheet(sheet: Sheet) -> str:
    """The whole page."""
    class_ = "strip few" if len(sheet.heads) <= FEW else "strip"
    strips = [tag("section", *map(_figure, sheet.heads, row), class_=class_) for row in sheet.rows]
    body = tag(
        "main",
        tag("h1", text(sheet.title)),
        *(tag("p", text(note), class_="note") for note in sheet.notes),
        _scale(sheet.scale),
        *strips,
    )
    return document(sheet.title, body, STYLE)


def _figure(head: str, cell: Cell) -> Markup:
    width, height = cell.picture.size
    picture = void(
        "img",
        src=data_uri(cell.picture),
        alt=f"{head}: {', '.join(cell.caption.splitlines())}" if cell.caption else head,
        width=width,
        height=height,
        class_="small" if max(width, height) < LARGEST else None,
    )
    caption = tag("figcaption", text(cell.caption)) if cell.caption else Markup("")
    return tag("figure", tag("span", text(head), class_="head"), picture, caption)


def _scale(scale: Scale | None) -> Markup:
    if scale is None:
        return Markup("")
    ends = join([tag("span", text(scale.low)), tag("span", text(scale.high))])
    bar = tag("i", style=f"background:{css_gradient()}")
    return tag("div", text(scale.meaning), bar, tag("div", ends), class_="scale")


def data_uri(picture: Image.Image) -> str:
    """A picture inside the page, without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
