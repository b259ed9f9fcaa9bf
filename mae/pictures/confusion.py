"""Picture of a confusion matrix."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mae.pictures.drawing import STEPS, ramp

CELL = 34
"""side of a cell in pixels, with up to MOST_NAMED classes"""

MOST_NAMED = 40
"""largest number of classes whose names are written; with more, cells are a few pixels"""

WIDEST_NAME = 150
"""maximum width of a name in pixels"""

SIDE = 900
"""side of the matrix in pixels, with more than MOST_NAMED classes"""

INK, SOFT = "#1c1d1f", "#62666d"
GAP = 10
FAINT = 0.005
"""share below which a cell stays blank"""


def draw_confusion(
    matrix: npt.NDArray[np.int64], names: Sequence[str], title: str = ""
) -> Image.Image:
    """Draw counts [classes classes]; each row, a true class, as shares of its images.

    Colours are darker for larger shares; with up to MOST_NAMED classes shares are also written, in
    percent.
    """
    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    is_named = count <= MOST_NAMED
    cell = CELL if is_named else max(1, SIDE // count)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    shown = [_short(name, small) for name in names] if is_named else []
    left = GAP + 20 + (round(max(map(small.getlength, shown))) + GAP if is_named else 0)
    top = 3 * GAP + 36 + (left - GAP - 20 if is_named else 0)
    canvas = Image.new(
        "RGB", (max(left + count * cell + GAP, 420), top + count * cell + 46), "white"
    )
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, fill=INK, font=font)
    draw.text((left, GAP + 22), "taken for", fill=SOFT, font=small)
    _upright(canvas, "true class", (GAP - 4, top), small, SOFT)
    colours = (ramp() * 255).round().byte().numpy()[::-1]  # light is small, as on paper
    for row, column in np.argwhere(shares >= FAINT).tolist():
        share = shares[row, column]
        x, y = left + column * cell, top + row * cell
        colour = tuple(colours[min(STEPS - 1, round(share * (STEPS - 1)))].tolist())
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour)
        if is_named:
            words = f"{100 * share:.0f}"
            place = (x + (cell - small.getlength(words)) / 2, y + cell / 2 - 7)
            draw.text(place, words, fill="white" if sum(colour) < 380 else INK, font=small)
    for number, name in enumerate(shown):
        y = top + number * cell + cell / 2 - 7
        draw.text((left - GAP / 2 - small.getlength(name), y), name, fill=INK, font=small)
        _upright(canvas, name, (left + number * cell + cell // 2 - 8, top - GAP // 2), small, INK)
    draw.rectangle((left - 1, top - 1, left + count * cell, top + count * cell), outline="#c9ccd1")
    draw.text(
        (GAP, top + count * cell + 14),
        "each row: share of that class's images, in percent; the diagonal is right",
        fill=SOFT,
        font=small,
    )
    return canvas


def _short(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    shown = name
    while font.getlength(shown) > WIDEST_NAME:
        name = name[:-1]
        shown = f"{name}…"
    return shown


def _upright(
    canvas: Image.Image,
    words: str,
    foot: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    fill: str,
) -> None:
    """Draw text that reads upwards, above `foot` (its left edge and lower end)."""
    if words == "true class":
        foot = foot[0], foot[1] + round(font.getlength(words)) + 6
    part = Image.new("RGBA", (round(font.getlength(words)) + 2, 16))
    ImageDraw.Draw(part).text((1, 0), words, fill=fill, font=font)
    part = part.rotate(90, expand=True)
    canvas.paste(part, (foot[0], foot[1] - part.height), part)
