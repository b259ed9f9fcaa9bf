"""Images per second, and memory, over the batch size: one curve for each model and mode."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from mae.bench.cases import model_name
from mae.report.scales import Scale, compact, fit

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 44
LINE = 20
"""height of a row of the legend"""
SMOOTH = 3
"""drawn so many times as large, then reduced"""

INK, FAINT = "#22272e", "#d8dce2"
COLOURS = ("#2166ac", "#d6604d", "#1b7837", "#b8860b", "#762a83", "#35978f", "#8c510a", "#636363")

Curve = Sequence[tuple[float, float]]
"""(batch size, value)"""


class Panel(NamedTuple):
    """One of the charts side by side."""

    title: str
    value: Callable[[dict], float | None]


PANELS = (
    Panel("images/s", lambda row: row["images_per_s"]["median"]),
    Panel("peak memory, GB", lambda row: row["memory"] / 1e9 if row["memory"] else None),
)


def step_plot(result: dict) -> Image.Image:
    """Picture of a result of `bench_step`; cases that did not fit leave their curve short."""
    names = list(dict.fromkeys(map(_name, result["rows"])))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    height = HEIGHT + LINE * -(-len(names) // 2) + 10
    canvas = Image.new("RGB", (2 * WIDTH * SMOOTH, height * SMOOTH), "white")
    draw = ImageDraw.Draw(canvas)
    for place, panel in enumerate(PANELS):
        curves: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for row in result["rows"]:
            value = None if "error" in row else panel.value(row)
            if value is not None:
                curves[_name(row)].append((row["batch_size"], value))
        _Chart(draw, place * WIDTH).show(panel.title, curves, colours)
    for number, name in enumerate(names):
        x = LEFT + (number % 2) * WIDTH
        y = HEIGHT + LINE * (number // 2)
        _Chart(draw, 0).line([(x, y + 9), (x + 22, y + 9)], colours[name], 3)
        _Chart(draw, 0).words((x + 30, y + 9), name, "lm")
    return canvas.resize((2 * WIDTH, height), Image.Resampling.LANCZOS)


class _Chart:
    """A chart whose left edge is at `x`, in pixels of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float) -> None:
        self.draw, self.x = draw, x
        self.font = ImageFont.load_default(13 * SMOOTH)

    def show(self, title: str, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
        """Axes, curves, points."""
        self.words((LEFT, 22), title, "lm")
        points = [point for curve in curves.values() for point in curve]
        if not points:
            return
        sizes = sorted({x for x, _ in points})
        values = [y for _, y in points]
        up = fit(values, least=0.0)
        across = Scale(sizes[0] / 1.15, sizes[-1] * 1.15, is_log=True)
        for tick in up.ticks():
            y = self._y(up, tick)
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], FAINT, 1)
            self.words((LEFT - 8, y), compact(tick), "rm")
        for size in sizes:
            self.words((self._x(across, size), HEIGHT - BOTTOM + 16), f"{size:,}", "mm")
        self.words(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8), "images of a step", "mm")
        for name, curve in curves.items():
            places = [(self._x(across, x), self._y(up, y)) for x, y in sorted(curve)]
            if len(places) > 1:
                self.line(places, colours[name], 2.5)
            for x, y in places:
                self.dot(x, y, colours[name])

    def line(self, places: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """Through all places."""
        corners = [(SMOOTH * (self.x + x), SMOOTH * y) for x, y in places]
        self.draw.line(corners, fill=colour, width=round(width * SMOOTH), joint="curve")

    def dot(self, x: float, y: float, colour: str) -> None:
        """A point that was measured."""
        middle = (SMOOTH * (self.x + x), SMOOTH * y)
        self.draw.circle(middle, 4 * SMOOTH, fill=colour, outline="white", width=SMOOTH)

    def words(self, place: tuple[float, float], words: str, anchor: str) -> None:
        """Text, anchored as Pillow calls it."""
        at = (SMOOTH * (self.x + place[0]), SMOOTH * place[1])
        self.draw.text(at, words, fill=INK, font=self.font, anchor=anchor)

    def _x(self, scale: Scale, value: float) -> float:
        return LEFT + scale.place(value) * (WIDTH - RIGHT - LEFT)

    def _y(self, scale: Scale, value: float) -> float:
        return HEIGHT - BOTTOM - scale.place(value) * (HEIGHT - BOTTOM - TOP)


def _name(row: dict) -> str:
    is_plain = row["config_file"] or row["decoder_depth"] == 8
    depth = "" if is_plain else f"decoder of {row['decoder_depth']}"
    return ", ".join(filter(None, [model_name(row), depth, row["mode"], row["settings"]]))
