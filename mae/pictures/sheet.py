"""Sheets of captioned pictures under common headings, drawn as one image or as an HTML page."""

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageFont

from mae.pictures.drawing import STEPS, css_gradient, ramp
from mae.pictures.html import Markup, document, join, tag, text, void
from mae.pictures.words import UNDRAWABLE, Font, wrapped, write

GAP = 6
"""pixels between pictures"""

LINE = 17
"""height of a line of text in pixels"""

SMALLEST, LARGEST = 160, 256
"""minimum and maximum of the longest side of a picture on the sheet, in pixels"""

CROWDED = 8
"""number of columns from which pictures are at most SMALLEST"""

WIDEST_HEAD = 130
"""maximum width in pixels to which a heading widens its column"""

NARROWEST, WIDEST = 480, 1600
"""minimum and maximum width of a sheet in pixels; wider only for one block of wide rows"""

MOST_ROWS = 4
"""largest number of rows in one block; more are split into two blocks side by side, if they fit"""

SCALE_WIDTH, SCALE_HEIGHT = 220, 10
INK, SOFT = "#1c1d1f", "#62666d"

FEW = 5
"""number of columns that fit into one line of a wide screen"""


class Cell(NamedTuple):
    """Picture at its own size, with a caption below it."""

    picture: Image.Image
    """RGB, or RGBA where parts are blank"""
    caption: str = ""
    """lines of text"""


class Scale(NamedTuple):
    """Legend of the colour map: its meaning, and the values at both ends."""

    meaning: str
    low: str
    high: str


class Sheet(NamedTuple):
    """Sheet: rows of pictures with title, headings, notes and scale."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]
    """explanations, a sentence or more each"""
    scale: Scale | None = None


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draw a sheet as one picture: title, headings, rows, then the scale and the notes.

    Small pictures are enlarged by integer factors without smoothing, large ones reduced.
    """
    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    most = SMALLEST if len(sheet.heads) >= CROWDED else LARGEST
    cells = [cell for row in sheet.rows for cell in row]
    sizes = [fitted(cell.picture, most).size for cell in cells]
    cell_w = max(*(w for w, _ in sizes), *(_head_width(head, small) for head in sheet.heads)) + GAP
    cell_h = max(h for _, h in sizes) + GAP
    cell_h += LINE * max(len(cell.caption.splitlines()) for cell in cells)
    block = len(sheet.heads) * cell_w + GAP
    halves = 2 if len(sheet.rows) > MOST_ROWS and 2 * block <= WIDEST else 1
    rows = -(-len(sheet.rows) // halves)
    width = max(halves * block + (halves - 1) * 3 * GAP, NARROWEST)
    drawn = [note.translate(UNDRAWABLE) for note in sheet.notes]
    notes = [line for note in drawn for line in wrapped(note, small, width - 2 * GAP)]
    top = 2 * LINE + 2 * GAP
    below = (2 * LINE + GAP) * (sheet.scale is not None) + LINE * len(notes) + 2 * GAP
    canvas = Image.new("RGB", (width, top + rows * cell_h + below), "white")
    write(canvas, (GAP, GAP), words=sheet.title, font=font, fill=INK, width=width - 2 * GAP)
    for half in range(halves):
        left = GAP + half * (block + 3 * GAP)
        for column, head in enumerate(sheet.heads):
            place = (left + column * cell_w, LINE + 2 * GAP)
            write(canvas, place, words=head, font=small, fill=SOFT, width=cell_w - GAP)
        for number, row in enumerate(sheet.rows[half * rows : (half + 1) * rows]):
            for column, cell in enumerate(row):
                place = (left + column * cell_w, top + number * cell_h)
                _draw_cell(canvas, cell, place=place, font=small, width=cell_w - GAP, most=most)
    y = top + rows * cell_h
    if sheet.scale is not None:
        y = _draw_scale(canvas, sheet.scale, small, y)
    for line in notes:
        write(canvas, (GAP, y + 2), line, small, SOFT)
        y += LINE
    return canvas


def _head_width(head: str, font: Font) -> int:
    return min(WIDEST_HEAD, math.ceil(font.getlength(head)))


def _draw_cell(
    canvas: Image.Image, cell: Cell, place: tuple[int, int], font: Font, width: int, most: int
) -> None:
    picture = fitted(cell.picture, most)
    canvas.paste(picture, place, picture if picture.mode == "RGBA" else None)
    x, y = place[0], place[1] + picture.height + 1
    for number, line in enumerate(cell.caption.splitlines()):
        write(canvas, (x, y + number * LINE), words=line, font=font, fill=INK, width=width)


def fitted(picture: Image.Image, most: int = LARGEST) -> Image.Image:
    """Enlarge by an integer factor to at least SMALLEST, or reduce to `most`."""
    side = max(picture.size)
    if side <= most:
        factor = max(1, -(-SMALLEST // side)) if side < SMALLEST else 1
        factor = factor if side * factor <= most else max(1, most // side)
        size = picture.width * factor, picture.height * factor
        return picture.resize(size, Image.Resampling.NEAREST)
    size = [max(1, round(length * most / side)) for length in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _draw_scale(canvas: Image.Image, scale: Scale, font: Font, y: int) -> int:
    """Draw the colour map with the values at its ends; return the y of the next line."""
    write(canvas, (GAP, y), scale.meaning, font, INK)
    x = round(2 * GAP + font.getlength(scale.low))
    write(canvas, (GAP, y + LINE), scale.low, font, INK)
    colours = (ramp() * 255).round().byte().numpy().reshape(1, STEPS, 3)
    canvas.paste(Image.fromarray(colours).resize((SCALE_WIDTH, SCALE_HEIGHT)), (x, y + LINE + 4))
    write(canvas, (x + SCALE_WIDTH + GAP, y + LINE), scale.high, font, INK)
    return y + 2 * LINE + GAP


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


def render_sheet(sheet: Sheet) -> str:
    """Write a sheet as an HTML page."""
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
    words = ", ".join(cell.caption.splitlines())
    picture = void(
        "img",
        src=data_uri(cell.picture),
        alt=": ".join(filter(None, (head, words))),
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
    """Picture as a data URI (PNG)."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
