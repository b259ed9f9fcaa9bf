"""Line charts as inline SVG that stretches to any width, with labels in HTML around it.

The drawing is 1000 x 1000 units at any size on the screen; strokes keep their width, and text is
outside so that it is never squeezed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mae.pictures.html import Markup, join, tag, text, void
from mae.report.scales import Bucket, Points, Scale, compact, fit, reduce, round_numbers

SIZE = 1000
"""width and height of the drawing in its own units"""
BUCKETS = 240
"""maximum number of points of a line; more are averaged"""
HOVERS = 60
"""number of columns that show values under the pointer"""
DOTTED = 40
"""maximum number of points that are marked one by one"""

NOTHING = Markup("")


class Line(NamedTuple):
    """Curve of a chart: its points, colour and intervals."""

    name: str
    points: Points
    style: str = "a"
    """CSS class: a to h are colours; base is grey and dashed, for references"""
    intervals: Sequence[tuple[float, float]] = ()
    """low and high of each point, drawn as a band; empty: the spread of averaged points"""


class Marks(NamedTuple):
    """Warm-up, restarts and faults, the same on all charts of a run; x in steps."""

    span: tuple[float, float]
    """first and last step shown"""
    warmup: float = 0.0
    """last step of the warm-up"""
    restarts: Sequence[float] = ()
    faults: Sequence[float] = ()


def chart(
    title: str,
    lines: Sequence[Line],
    marks: Marks,
    *,
    form: Callable[[float], str] = compact,
    wants_log: bool = False,
    floor: float | None = None,
    least: float | None = None,
    ceiling: float | None = None,
    gaps: Sequence[float] = (),
    unit: str = "step",
) -> Markup:
    """Figure with a caption and axes; empty where no line has points.

    `form` formats values; `wants_log`, `floor`, `ceiling` and `least` are as in `fit`; `gaps` are
    steps whose value is not a number, marked like faults; `unit` of the x-axis, for the values
    under the pointer.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return NOTHING
    drawn = [(line, _buckets(line, marks.span)) for line in lines]
    means = [bucket.mean for _, buckets in drawn for bucket in buckets]
    bounds = [
        y for one, buckets in drawn if one.intervals for b in buckets for y in (b.low, b.high)
    ]
    scale = fit([*means, *bounds], floor=floor, ceiling=ceiling, least=least, wants_log=wants_log)
    is_cut = not scale.low <= min(means) <= max(means) <= scale.high
    x = Scale(*marks.span, is_log=False)
    picture = tag(
        "svg",
        *_background(marks, scale, x, gaps),
        *(_curve(line, buckets, scale, x) for line, buckets in drawn),
        *_hovers(drawn, x, form, unit),
        viewBox=f"0 0 {SIZE} {SIZE}",
        preserveAspectRatio="none",
        role="img",
        aria_label=title,
    )
    across = [tick for tick in round_numbers(*marks.span) if tick <= marks.span[1]]
    return tag(
        "figure",
        _caption(title, lines, form, " log scale" * scale.is_log + " cut at the edge" * is_cut),
        tag(
            "div",
            *(_label("y", form(tick), "top", 1 - scale.place(tick)) for tick in scale.ticks()),
            picture,
            *(_label("x", compact(tick), "left", x.place(tick)) for tick in across),
            class_="plot",
        ),
        class_="chart",
    )


def _caption(title: str, lines: Sequence[Line], form: Callable[[float], str], note: str) -> Markup:
    shown = [
        tag(
            "span",
            tag("i", class_=f"key {line.style}") if len(lines) > 1 else NOTHING,
            text(f"{line.name} " if len(lines) > 1 else ""),
            tag("b", text(form(line.points[-1][1]))),
        )
        for line in lines
    ]
    return tag(
        "figcaption", tag("span", tag("strong", text(title)), tag("small", text(note))), join(shown)
    )


def _background(marks: Marks, scale: Scale, x: Scale, gaps: Sequence[float]) -> list[Markup]:
    """Shapes of warm-up, grid lines, restarts and faults."""
    found = []
    if marks.warmup > marks.span[0]:
        end = f"{SIZE * x.place(marks.warmup):.1f}"
        about = tag("title", text(f"warm-up, to step {marks.warmup:,.0f}"))
        found.append(tag("rect", about, width=end, height=SIZE, class_="warmup"))
    for tick in scale.ticks():
        found.append(void("path", d=f"M0 {_down(scale, tick)}H{SIZE}", class_="grid"))
    seen = set()
    for kind, steps, about in (
        ("restart", marks.restarts, "restarted"),
        ("fault", marks.faults, "skipped, spiked or rolled back"),
        ("fault", gaps, "not a number"),
    ):
        for step in steps:
            place = round(SIZE * x.place(step))
            if (kind, place) not in seen and marks.span[0] <= step <= marks.span[1]:
                seen.add((kind, place))  # thousands of them would be drawn over each other
                title = tag("title", text(f"step {step:,.0f}: {about}"))
                path = f"M{place} 0V{SIZE}" if kind == "restart" else f"M{place} {SIZE - 60}V{SIZE}"
                found.append(tag("path", title, d=path, class_=kind))
    return found


def _buckets(line: Line, span: tuple[float, float]) -> list[Bucket]:
    buckets = reduce(line.points, span, BUCKETS)
    if len(line.intervals) != len(buckets):
        return buckets
    pairs = zip(buckets, line.intervals, strict=True)
    return [bucket._replace(low=low, high=high) for bucket, (low, high) in pairs]


def _curve(line: Line, buckets: list[Bucket], scale: Scale, x: Scale) -> Markup:
    places = [f"{SIZE * x.place(bucket.x):.1f}" for bucket in buckets]
    heights = [_down(scale, bucket.mean) for bucket in buckets]
    corners = list(zip(places, heights, strict=True))
    band = NOTHING
    if any(bucket.high > bucket.low for bucket in buckets):
        lows = [_down(scale, bucket.low) for bucket in buckets]
        highs = [_down(scale, bucket.high) for bucket in buckets]
        around = [*zip(places, highs, strict=True), *reversed([*zip(places, lows, strict=True)])]
        band = void(
            "path", d="M" + "L".join(map(" ".join, around)) + "Z", class_=f"band {line.style}"
        )
    path = "M" + "L".join(map(" ".join, corners))
    found = [band, void("path", d=path, class_=f"line {line.style}")]
    if len(buckets) <= DOTTED and line.style != "base":
        # Lines of no length with round ends stay round however the drawing is stretched.
        dots = "".join(f"M{across} {down}h0" for across, down in corners)
        found.append(void("path", d=dots, class_=f"dots {line.style}"))
    return join(found)


def _hovers(
    drawn: Sequence[tuple[Line, list[Bucket]]],
    x: Scale,
    form: Callable[[float], str],
    unit: str,
) -> list[Markup]:
    """Invisible columns that show their values under the pointer."""
    columns: dict[int, dict[str, tuple[float, str]]] = {}
    for line, buckets in drawn:
        for bucket in buckets:
            place = min(HOVERS - 1, int(HOVERS * x.place(bucket.x)))
            around = (
                f" ({form(bucket.low)} to {form(bucket.high)})"
                if len(line.intervals) == len(buckets)
                else ""
            )
            columns.setdefault(place, {})[line.name] = bucket.x, form(bucket.mean) + around
    found = []
    for place, values in sorted(columns.items()):
        step = max(x for x, _ in values.values())
        rows = [f"{unit} {step:,.0f}", *(f"{name} {value}" for name, (_, value) in values.items())]
        column = {"x": f"{place * SIZE / HOVERS:.1f}", "width": f"{SIZE / HOVERS:.1f}"}
        title = tag("title", text("\n".join(rows)))
        found.append(tag("rect", title, height=SIZE, class_="hover", **column))
    return found


def _label(axis: str, words: str, side: str, share: float) -> Markup:
    return tag("span", text(words), class_=axis, style=f"{side}:{100 * share:.2f}%")


def _down(scale: Scale, value: float) -> str:
    return f"{SIZE * (1 - scale.place(value)):.1f}"
