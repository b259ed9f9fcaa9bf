import re
from xml.etree import ElementTree

from mae.report.charts import Line, Marks, chart

SPAN = Marks((0.0, 1000.0))


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def curve(figure: ElementTree.Element, style: str = "a") -> list[tuple[float, float]]:
    """Corners of a line, from 0 to 1000, y downwards."""
    path = next(p for p in figure.iter("path") if p.get("class") == f"line {style}")
    numbers = re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d", ""))
    return [(float(x), float(y)) for x, y in numbers]


def test_a_line_goes_where_its_numbers_are():
    points = [(0.0, 0.0), (500.0, 5.0), (1000.0, 10.0)]
    figure = parsed(chart("t", [Line("loss", points)], SPAN, least=0.0))
    (x0, y0), (x1, y1), (x2, y2) = curve(figure)
    assert (x0, x1, x2) == (0, 500, 1000)
    assert y0 == 1000 and y2 < 100 and abs(y1 - (y0 + y2) / 2) < 0.2


def test_thousands_of_rows_become_a_line_within_a_band():
    points = [(x / 10, float(x % 7)) for x in range(10_000)]
    markup = chart("t", [Line("loss", points)], SPAN)
    figure = parsed(markup)
    assert 100 < len(curve(figure)) <= 240
    assert any(path.get("class") == "band a" for path in figure.iter("path"))
    assert len(markup) < 40_000


def test_values_are_shown_under_the_pointer():
    figure = parsed(chart("t", [Line("loss", [(300.0, 0.25)]), Line("b", [(305.0, 7.0)])], SPAN))
    titles = [t.text for rect in figure.iter("rect") for t in rect.iter("title")]
    assert titles == ["step 305\nloss 0.25\nb 7"]


def test_warm_up_restarts_faults_and_gaps_are_marked_once_a_place():
    marks = Marks((0.0, 1000.0), warmup=100.0, restarts=[400.0], faults=[500.0, 500.1, 5000.0])
    figure = parsed(chart("t", [Line("x", [(1.0, 1.0)])], marks, gaps=[900.0]))
    warmup = next(rect for rect in figure.iter("rect") if rect.get("class") == "warmup")
    assert float(warmup.get("width", "")) == 100
    titles = [
        path.findtext("title") for path in figure.iter("path") if path.find("title") is not None
    ]
    assert titles == [
        "step 400: restarted",
        "step 500: skipped, spiked or rolled back",
        "step 900: not a number",
    ]


def test_no_points_no_chart():
    assert chart("t", [Line("x", [])], SPAN) == ""


def test_names_are_escaped():
    markup = chart("<b>", [Line("<script>", [(1.0, 1.0)]), Line("&", [(1.0, 2.0)])], SPAN)
    assert "<script>" not in markup and "<b>t" not in markup
    assert "&lt;script&gt;" in markup
    parsed(markup)


def test_intervals_are_the_band_and_fit_on_the_chart():
    points = [(0.0, 0.5), (1000.0, 0.6)]
    line = Line("held-out", points, intervals=[(0.3, 0.7), (0.4, 0.9)])
    figure = parsed(chart("t", [line], SPAN))
    band = next(path for path in figure.iter("path") if path.get("class") == "band a")
    heights = [float(y) for _, y in re.findall(r"[ML]?([\d.]+) ([\d.]+)", band.get("d", ""))]
    assert len(set(heights)) == 4 and all(0 < height < 1000 for height in heights)
    titles = [t.text for rect in figure.iter("rect") for t in rect.iter("title")]
    assert titles[0] == "step 0\nheld-out 0.5 (0.3 to 0.7)"
