import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageFont

from mae.pictures.sheet import (
    LARGEST,
    SMALLEST,
    Cell,
    Scale,
    Sheet,
    draw_sheet,
    fitted,
    render_sheet,
)

FONT = ImageFont.load_default(12)


def plain(colour: str, size=(40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def sheet(rows=2, heads=("one", "two"), caption="R² 0.5\n<b>&", scale=True) -> Sheet:
    cells = [[Cell(plain("red"), caption), Cell(plain("blue"))] for _ in range(rows)]
    explained = Scale("what it means", "0", "1 and more") if scale else None
    return Sheet("a <title>", heads, cells, ["First note.", "Second note."], explained)


def area(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(-1).sum())


@pytest.mark.parametrize(("rows", "scale"), [(1, True), (4, False), (7, True)])
def test_every_picture_is_whole_on_the_sheet(rows, scale):
    drawn = draw_sheet(sheet(rows, scale=scale))
    assert area(drawn, (255, 0, 0)) == rows * 160 * 120
    assert area(drawn, (0, 0, 255)) == rows * 160 * 120
    assert max(drawn.size) < 1600


def test_blank_parts_stay_white():
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (0, 0, 20, 40))
    drawn = draw_sheet(Sheet("", ["a"], [[Cell(picture)]], []))
    assert area(drawn, (255, 0, 0)) == 80 * 160 and area(drawn, (0, 255, 0)) == 0


def test_pictures_are_enlarged_by_integer_factors_or_reduced():
    assert fitted(plain("red", (7, 9))).size == (126, 162)
    assert fitted(plain("red", (200, 180))).size == (200, 180)
    assert fitted(plain("red", (1024, 512))).size == (LARGEST, LARGEST // 2)
    assert fitted(plain("red", (100, 50)), SMALLEST).size == (100, 50)
    assert fitted(plain("red", (224, 112)), SMALLEST).size == (SMALLEST, SMALLEST // 2)


def test_notes_are_wrapped_as_drawn():
    """Characters that the font lacks are replaced by longer text."""
    note = " ".join(["√a"] * 200)
    drawn = draw_sheet(sheet()._replace(notes=[note]))
    assert area(drawn.crop((drawn.width - 4, 0, *drawn.size)), (255, 255, 255)) == 4 * drawn.height


class Reader(HTMLParser):
    """Tags that are open at the end, pictures, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_page_holds_everything_and_fetches_nothing():
    page = render_sheet(sheet())
    read = Reader(page)
    assert read.open == [] and len(read.images) == 4
    for text in ("a <title>", "First note.", "Second note.", "R² 0.5\n<b>&", "1 and more"):
        assert text in read.words
    for image in read.images:
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as decoded:
            assert decoded.size == (40, 30)
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert 'alt="one: R² 0.5, &lt;b&gt;&amp;"' in page
