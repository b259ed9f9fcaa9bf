"""Plots of one figure over another on a logarithmic axis, as PNG or inline SVG."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from PIL import Image, ImageDraw, ImageFont

from mae.pictures.html import Markup, join, tag, text, void

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 30, 52
"""margins around the axes"""
COLOURS = ("#2563b8", "#c2570c", "#7a4fb5", "#0e7c74", "#b03070", "#8b8f96", "#5b6b2f")
"""of the lines, in their order"""
INK, SOFT, RULE = "#1c1d1f", "#62666d", "#dcdcd8"
SCALE = 2
"""pixels of a PNG per unit"""
MOST_TICKS = 9
FONT = ImageFont.load_default(12)
"""measures names in the legend, which browsers write up to a tenth wider"""
LEGEND_GAP = 18
CSS = """
.rd { width: 100%; min-width: 560px; max-width: 760px; height: auto; display: block;
  margin: 10px 0 4px; }
.rd text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.rd .rule { stroke: var(--rule); }
.rd .title { fill: var(--ink); font-weight: 600; font-size: 13px; }
"""
"""style of the SVG on a page of the report's style"""


class Line(NamedTuple):
    """Points of a line, by rising x; a single one is drawn as a disc."""

    name: str
    points: Sequence[tuple[float, float]]


class Plot(NamedTuple):
    """Lines, and the names of the axes."""

    up: str
    across: str
    """logarithmic axis"""
    lines: Sequence[Line]


class Canvas(Protocol):
    """Surface of WIDTH x HEIGHT units."""

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """Line through points."""
        ...

    def disc(self, place: tuple[float, float], radius: float, colour: str) -> None:
        """Filled disc."""
        ...

    def words(self, place: tuple[float, float], words: str, anchor: str, colour: str) -> None:
        """Text whose left, middle or right (l, m, r) is at `place`, and its vertical middle."""
        ...


def draw(plot: Plot, canvas: Canvas) -> None:
    """Draw axes, lines and legend."""
    points = [point for line in plot.lines for point in line.points]
    low, high = (f(x for x, _ in points) for f in (min, max))
    bottom, top = (f(y for _, y in points) for f in (min, max))
    low, high = low / 1.15, high * 1.15
    margin = 0.05 * (top - bottom) or 0.5
    bottom, top = bottom - margin, top + margin

    def across(x: float) -> float:
        share = (math.log(x) - math.log(low)) / (math.log(high) - math.log(low))
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    for tick in even_ticks(bottom, top):
        canvas.line([(LEFT, up(tick)), (WIDTH - RIGHT, up(tick))], RULE, 1)
        canvas.words((LEFT - 8, up(tick)), f"{tick:g}", "r", SOFT)
    for tick in round_ticks(low, high):
        canvas.line([(across(tick), TOP), (across(tick), HEIGHT - BOTTOM)], RULE, 1)
        canvas.words((across(tick), HEIGHT - BOTTOM + 14), f"{tick:g}", "m", SOFT)
    canvas.words((LEFT, 14), f"{plot.up} over {plot.across}", "l", INK)
    place = float(LEFT)
    for number, line in enumerate(plot.lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across(x), up(y)) for x, y in line.points]
        if len(places) > 1:
            canvas.line(places, colour, 2)
        for one in places:
            canvas.disc(one, 2.6 if len(places) > 1 else 5.5, colour)
        canvas.disc((place + 4, HEIGHT - BOTTOM + 34), 4, colour)
        canvas.words((place + 12, HEIGHT - BOTTOM + 34), line.name, "l", INK)
        place += 12 + 1.1 * FONT.getlength(line.name) + LEGEND_GAP


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= MOST_TICKS:
            return ticks
    return ticks[:: -(-len(ticks) // MOST_TICKS)]


def even_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within an axis."""
    unit = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step = next(s * unit for s in (1, 2, 5, 10) if (high - low) / (s * unit) <= MOST_TICKS)
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]


class _Picture:
    """Canvas of a PNG."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(12 * SCALE)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        places = [(SCALE * x, SCALE * y) for x, y in points]
        self.pen.line(places, colour, round(SCALE * width), joint="curve")

    def disc(self, place: tuple[float, float], radius: float, colour: str) -> None:
        self.pen.circle((SCALE * place[0], SCALE * place[1]), SCALE * radius, colour)

    def words(self, place: tuple[float, float], words: str, anchor: str, colour: str) -> None:
        at = SCALE * place[0], SCALE * place[1]
        self.pen.text(at, words, colour, self.font, f"{anchor}m")


class _Svg:
    """Canvas of an inline SVG."""

    def __init__(self) -> None:
        self.parts: list[Markup] = []

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        own = {"class_": "rule"} if colour == RULE else {"stroke": colour}
        self.parts.append(void("path", d=path, fill="none", stroke_width=width, **own))

    def disc(self, place: tuple[float, float], radius: float, colour: str) -> None:
        x, y = (f"{one:.1f}" for one in place)
        self.parts.append(void("circle", cx=x, cy=y, r=radius, fill=colour))

    def words(self, place: tuple[float, float], words: str, anchor: str, colour: str) -> None:
        x, y = (f"{one:.1f}" for one in place)
        end = {"l": "start", "m": "middle", "r": "end"}[anchor]
        style = {"text_anchor": end, "dominant_baseline": "middle"}
        is_title = {"class_": "title"} if place[1] < TOP else {}
        self.parts.append(tag("text", text(words), x=x, y=y, **style, **is_title))


def drawn(plots: Sequence[Plot]) -> Image.Image:
    """Plots below each other as one picture."""
    whole = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT * len(plots)), "white")
    for number, plot in enumerate(plots):
        canvas = _Picture()
        draw(plot, canvas)
        whole.paste(canvas.image, (0, number * SCALE * HEIGHT))
    return whole


def rendered(plots: Sequence[Plot]) -> Markup:
    """Plots as SVG, for a page with `CSS`."""
    found = []
    for plot in plots:
        canvas = _Svg()
        draw(plot, canvas)
        about = f"{plot.up} over {plot.across}"
        view = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria_label": about}
        svg = tag("svg", *canvas.parts, class_="rd", **view)
        found.append(tag("div", svg, class_="wide"))  # scrolls where letters would be too small
    return join(found)
