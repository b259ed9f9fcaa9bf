"""`mae bench step`: speed and memory of the training step on synthetic images."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from mae.base.device import choose_device
from mae.commands.bench.cases import base_cases, model_name, refuse_both
from mae.commands.bench.command import DECODER_DEPTH, ENCODER
from mae.commands.bench.rounds import (
    USUAL,
    Effort,
    Progress,
    about,
    effort_of,
    environment,
    measure,
    show_progress,
    silent,
)
from mae.commands.bench.tables import RATES, about_lines, markdown, rates_of, write_result
from mae.pictures.drawing import save_png
from mae.report.scales import Scale, compact, fit

WIDTH, HEIGHT = 640, 420
"""size of a chart, in pixels"""
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 44
"""margins of a chart, in pixels"""
LEGEND_ROW = 20
"""height in pixels"""
OVERSAMPLING = 3
"""factor between the size of drawing and the final size"""

INK, FAINT = "#22272e", "#d8dce2"
COLOURS = ("#2166ac", "#d6604d", "#1b7837", "#b8860b", "#762a83", "#35978f", "#8c510a", "#636363")

Curve = Sequence[tuple[float, float]]
"""points (batch size, value)"""


def run(args: argparse.Namespace) -> None:
    """Run `mae bench step`."""
    refuse_both(args.config, {"--models": args.models, "--decoder-depths": args.decoder_depths})
    result = bench_step(
        args.models or [ENCODER],
        args.batch_sizes,
        args.modes,
        args.decoder_depths or [DECODER_DEPTH],
        config_file=args.config,
        variants=["", *args.variants],
        img_size=args.img_size,
        precision=args.precision,
        device=choose_device(args.device),
        effort=effort_of(args),
        progress=show_progress,
    )
    write_result(args.out, result, step_table(result))
    if args.plot:
        save_png(step_plot(result), args.plot)
        print(args.plot)


def bench_step(
    models: Sequence[str],
    batch_sizes: Sequence[int],
    modes: Sequence[str],
    decoder_depths: Sequence[int] = (DECODER_DEPTH,),
    *,
    config_file: str = "",
    variants: Sequence[str] = ("",),
    img_size: int | None = None,
    precision: str = "auto",
    device: str = "cpu",
    effort: Effort = USUAL,
    progress: Progress = silent,
) -> dict:
    """Measure all combinations; those of one model and decoder depth are measured in turn.

    `config_file`: config file of the model, of any objective, instead of `models` and
    `decoder_depths`.  `variants`: settings, separated by commas; "" are the defaults.  The result
    can be written as JSON.

    Raises UserError for unknown models and invalid settings, RunFailed where a measuring process
    fails.
    """
    rows = []
    for base in base_cases(models, decoder_depths, config_file):
        cases = [
            base._replace(
                img_size=img_size,
                batch_size=batch_size,
                mode=mode,
                precision=precision,
                settings=variant,
            )
            for batch_size, mode, variant in product(batch_sizes, modes, variants)
        ]
        depth = "" if config_file else f", decoder of {base.decoder_depth}"
        name = f"{base.model}{depth}"

        def show(done: int, total: int, name: str = name) -> None:
            progress(name, done, total)

        rows += measure(cases, effort, environment(device), show)
    return {**about(device, effort), "rows": rows}


def step_table(result: dict) -> str:
    """Markdown table of rates, MFU, memory and speed relative to the first case of the model."""
    heads = ["", "decoder", "batch", *RATES, "times the first"]
    rows = [
        [
            f"{model_name(row)} {row['mode']} {row['settings']}".strip(),
            "–" if row["config_file"] else str(row["decoder_depth"]),
            str(row["batch_size"]),
            *rates_of(row),
            f"{row['ratio']['median']:.2f}" if "ratio" in row else "–",
        ]
        for row in result["rows"]
    ]
    return "\n".join([*about_lines(result), "", *markdown(heads, rows)])


class Chart(NamedTuple):
    """Title and values of one of the charts side by side."""

    title: str
    value: Callable[[dict], float | None]


CHARTS = (
    Chart("images/s", lambda row: row["images_per_s"]["median"]),
    Chart("peak memory, GB", lambda row: row["memory"] / 1e9 if row["memory"] else None),
)


def step_plot(result: dict) -> Image.Image:
    """Charts of speed and memory over the batch size, a curve for each model and mode.

    Cases that ran out of memory have no point.
    """
    names = list(dict.fromkeys(map(_curve_name, result["rows"])))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    height = HEIGHT + LEGEND_ROW * -(-len(names) // 2) + 10
    size = (2 * WIDTH * OVERSAMPLING, height * OVERSAMPLING)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for place, chart in enumerate(CHARTS):
        curves: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for row in result["rows"]:
            value = None if "error" in row else chart.value(row)
            if value is not None:
                curves[_curve_name(row)].append((row["batch_size"], value))
        _ChartArea(draw, place * WIDTH).show(chart.title, curves, colours)
    legend = _ChartArea(draw, 0)
    for number, name in enumerate(names):
        x = LEFT + (number % 2) * WIDTH
        y = HEIGHT + LEGEND_ROW * (number // 2)
        legend.line([(x, y + 9), (x + 22, y + 9)], colours[name], 3)
        legend.text((x + 30, y + 9), name, "lm")
    return canvas.resize((2 * WIDTH, height), Image.Resampling.LANCZOS)


class _ChartArea:
    """Drawing area whose left edge is at `x`, in pixels of the final picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float) -> None:
        self.draw, self.x = draw, x
        self.font = ImageFont.load_default(13 * OVERSAMPLING)

    def show(self, title: str, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
        """Draw title, axes, curves and points."""
        self.text((LEFT, 22), title, "lm")
        points = [point for curve in curves.values() for point in curve]
        if not points:
            return
        sizes = sorted({x for x, _ in points})
        values = [y for _, y in points]
        vertical = fit(values, least=0.0)
        horizontal = Scale(sizes[0] / 1.15, sizes[-1] * 1.15, is_log=True)
        for tick in vertical.ticks():
            y = self._y(vertical, tick)
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], FAINT, 1)
            self.text((LEFT - 8, y), compact(tick), "rm")
        for size in sizes:
            self.text((self._x(horizontal, size), HEIGHT - BOTTOM + 16), f"{size:,}", "mm")
        self.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8), "images of a step", "mm")
        for name, curve in curves.items():
            places = [(self._x(horizontal, x), self._y(vertical, y)) for x, y in sorted(curve)]
            if len(places) > 1:
                self.line(places, colours[name], 2.5)
            for x, y in places:
                self.dot(x, y, colours[name])

    def line(self, places: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """Draw a line through all places."""
        corners = [(OVERSAMPLING * (self.x + x), OVERSAMPLING * y) for x, y in places]
        self.draw.line(corners, fill=colour, width=round(width * OVERSAMPLING), joint="curve")

    def dot(self, x: float, y: float, colour: str) -> None:
        """Draw a measured point."""
        centre = (OVERSAMPLING * (self.x + x), OVERSAMPLING * y)
        radius = 4 * OVERSAMPLING
        self.draw.circle(centre, radius, fill=colour, outline="white", width=OVERSAMPLING)

    def text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        """Draw text; `anchor` as in Pillow."""
        at = (OVERSAMPLING * (self.x + place[0]), OVERSAMPLING * place[1])
        self.draw.text(at, text, fill=INK, font=self.font, anchor=anchor)

    def _x(self, scale: Scale, value: float) -> float:
        return LEFT + scale.place(value) * (WIDTH - RIGHT - LEFT)

    def _y(self, scale: Scale, value: float) -> float:
        return HEIGHT - BOTTOM - scale.place(value) * (HEIGHT - BOTTOM - TOP)


def _curve_name(row: dict) -> str:
    is_plain = row["config_file"] or row["decoder_depth"] == DECODER_DEPTH
    depth = "" if is_plain else f"decoder of {row['decoder_depth']}"
    return ", ".join(filter(None, [model_name(row), depth, row["mode"], row["settings"]]))
