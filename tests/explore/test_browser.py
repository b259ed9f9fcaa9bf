"""The page in Chromium: hover, click, lasso, search, keys, dark and narrow screens."""

import io
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.explore.content import Options, read_content
from mae.explore.page import write_page
from mae.explore.table import read_table
from tests.chromium import chromium
from tests.explore.browser import Tab
from tests.explore.tables import CLASSES, colour_of, columns, write

COUNT = 600
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
WIDEST = "() => Math.max(...[document.documentElement, document.body].map(e => e.scrollWidth))"
TABS = ("legend", "image", "selection", "copies", "outliers", "about")


def made(folder: Path, content: dict, options: Options = Options()) -> Path:  # noqa: B008
    out = folder / "map.html"
    write_page(read_content(read_table(write(folder / "a.parquet", content)), options), out)
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def given():
    return columns(COUNT)


@pytest.fixture(scope="module")
def page(tmp_path_factory, given):
    return made(tmp_path_factory.mktemp("page"), given)


@pytest.fixture
def open_tab(browser, page):
    """`open_tab(**settings)` opens the page; afterwards nothing may have gone wrong in it."""
    tabs = []

    def opened(file=page, **settings):
        tabs.append(Tab(browser, file, **settings))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.context.close()
        assert tab.faults == []


@pytest.fixture(scope="module")
def window(browser, page):
    return Tab(browser, page)


@pytest.fixture
def tab(window):
    """The page, opened anew in the same window."""
    window.page.mouse.move(0, 0)
    window.page.keyboard.up("Shift")
    window.open()
    yield window
    assert window.faults == []


def alone(given, least=0.12):
    """A row far from all others on the map: what is under the pointer there is known."""
    places = np.stack([given["x"], given["y"]], 1)
    gap = np.abs(places[:, None] - places[None]).max(axis=2) + 1e9 * np.eye(len(places))
    row = int(gap.min(axis=1).argmax())
    assert gap[row].min() > least
    return row


def screen(tab, given):
    """Places of all images in the window, from the table and the places of two corners."""
    points = np.stack([given["x"], -np.asarray(given["y"])], 1).astype(np.float64)
    far = [int(points[:, 0].argmin()), int(points[:, 0].argmax())]
    there = np.array([tab.at(row) for row in far])
    scale = (there[1, 0] - there[0, 0]) / (points[far[1], 0] - points[far[0], 0])
    return there[0] + (points - points[far[0]]) * scale


def test_a_place_on_the_map_is_that_of_the_table(tab, given):
    found = np.array(tab.value("() => explore.keys.map((_, row) => explore.at(row))"))
    box = tab.page.locator("#map").bounding_box()
    assert np.abs(found + np.array([box["x"], box["y"]]) - screen(tab, given)).max() < 0.01
    assert (found > 0).all() and (found < (box["width"], box["height"])).all()


def test_points_have_the_colour_of_the_legend(tab, given):
    row = alone(given)
    pixel = """row => {
      const [x, y] = explore.at(row).map(Math.round);
      const canvas = document.getElementById("dots");
      return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
    }"""
    swatch = "name => getComputedStyle([...document.querySelectorAll('#legend tbody tr')]\
      .find(row => row.innerText.startsWith(name)).querySelector('.swatch')).backgroundColor"
    colour = tab.value(swatch, given["class"][row])
    assert colour == f"rgb({', '.join(map(str, tab.value(pixel, row)))})"


def test_counts_are_in_the_legend(tab):
    rows = tab.page.locator("#legend tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [[name, "200", "33%"] for name in CLASSES]


def test_the_image_under_the_pointer_is_shown(tab, given):
    row = alone(given)
    tab.page.mouse.move(*tab.at(row))
    tab.page.wait_for_selector("#tip:not([hidden])")
    assert tab.text("#tip b") == given["key"][row]
    assert tab.text("#tip span") == given["class"][row]
    middle = """() => {
      const canvas = document.querySelector("#tip canvas");
      return [...canvas.getContext("2d").getImageData(12, 12, 1, 1).data];
    }"""
    tab.page.wait_for_function(f"() => ({middle})()[3] === 255")
    assert np.abs(np.array(tab.value(middle)[:3]) - colour_of(row)).max() < 6
    tab.page.mouse.move(5, 5)
    assert tab.page.locator("#tip").is_hidden()


def test_a_click_shows_the_neighbours(tab, given):
    row = alone(given)
    tab.page.mouse.click(*tab.at(row))
    assert tab.text("#image h2") == given["key"][row]
    near = tab.page.locator("#image .gallery button")
    ids = given["neighbours"][row]["ids"]
    assert [one.get_attribute("title") for one in near.all()] == [given["key"][i] for i in ids]
    assert near.first.inner_text() == "0.1"
    same = sum(given["class"][i] == given["class"][row] for i in ids)
    assert f"{same} of 3 have the same class" in tab.text("#image")
    near.nth(1).click()
    assert tab.text("#image h2") == given["key"][ids[1]]


@pytest.mark.parametrize("by_key", [False, True])
def test_a_lasso_has_exactly_the_keys_inside(tab, given, by_key):
    places = screen(tab, given)
    middle, reach = np.median(places[::3], axis=0), np.array([70.0, 50.0])
    if by_key:
        tab.page.keyboard.down("Shift")
    else:
        tab.page.click("#lasso")
        assert tab.page.locator("#lasso").get_attribute("aria-pressed") == "true"
    corners = [middle + reach * turn for turn in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    tab.drag([tuple(one) for one in corners])
    inside = (np.abs(places - middle) / reach).sum(axis=1) < 1
    expected = [key for key, is_in in zip(given["key"], inside, strict=True) if is_in]
    assert 20 < len(expected) < COUNT - 20
    assert tab.text("#selection h2") == f"{len(expected)} images"
    with tab.page.expect_download() as download:
        tab.page.click("#download")
    assert download.value.suggested_filename == "a-keys.txt"
    assert Path(download.value.path()).read_text().split("\n") == [*expected, ""]
    assert tab.page.locator("#selection .gallery button").count() == min(60, len(expected))


def test_keys_are_copied(open_tab, given):
    tab = open_tab(permissions=["clipboard-read", "clipboard-write"])
    tab.page.click("#tab-copies")
    tab.page.get_by_role("button", name="Select all but the first").click()
    tab.page.get_by_role("button", name="Copy keys").click()
    tab.page.wait_for_selector(".notice")
    assert tab.value("() => navigator.clipboard.readText()") == "image-0006\nimage-0009\n"


def test_duplicates_and_outliers_are_galleries(tab, given):
    tab.page.click("#tab-copies")
    titles = [one.get_attribute("title") for one in tab.page.locator("#copies .picture").all()]
    assert titles == ["image-0003", "image-0006", "image-0009"]
    tab.page.click("#tab-outliers")
    shown = tab.page.locator("#outliers .picture")
    order = np.argsort(-np.asarray(given["outlier"]), kind="stable")
    titles = [one.get_attribute("title") for one in shown.all()]
    assert titles == [given["key"][row] for row in order[:60]]
    tab.page.click("#outliers .more")
    assert shown.count() == 120


def test_colours_by_clusters_and_numbers(tab):
    options = tab.page.locator("#colour option").all_inner_texts()
    assert options == ["class", "cluster", "shard", "outlier"]
    tab.page.select_option("#colour", label="outlier")
    rows = tab.page.locator("#legend tbody tr").all_inner_texts()
    assert len(rows) == 10
    assert sum(int(row.split()[-2]) for row in rows) == COUNT
    tab.page.locator("#legend tbody button").first.click()
    marked = tab.value("() => explore.state.marked.reduce((sum, one) => sum + one)")
    assert marked == int(rows[0].split()[-2])
    tab.page.get_by_role("button", name="Select these images").click()
    assert tab.text("#selection h2") == f"{marked} images"


def test_a_search_finds_keys(tab, given):
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("IMAGE-001")
    assert tab.text("#hits-count") == "10 images"
    assert tab.page.locator("#hits-list li").count() == 8
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Enter")
    assert tab.text("#image h2") == "image-0011"
    assert tab.page.locator("#hits").is_hidden()
    tab.page.fill("#query", "nothing like it")
    assert tab.text("#hits-count") == "0 images"
    tab.page.keyboard.press("Escape")
    assert tab.value("() => explore.state.marked") is None


def test_the_keyboard_moves_zooms_and_chooses(tab):
    tab.page.focus("#map")
    scale = tab.value("() => explore.view.scale")
    tab.page.keyboard.press("+")
    assert tab.value("() => explore.view.scale") == pytest.approx(1.6 * scale)
    tab.page.keyboard.press("ArrowRight")
    assert tab.value("() => explore.view.x") > 0
    tab.page.keyboard.press("0")
    assert tab.value("() => [explore.view.scale, explore.view.x]") == [pytest.approx(scale), 0]
    tab.page.keyboard.press("Shift+ArrowLeft")
    first = tab.value("() => explore.at(explore.state.focus)")
    tab.page.keyboard.press("Shift+ArrowLeft")
    assert tab.value("() => explore.at(explore.state.focus)")[0] < first[0]
    tab.page.keyboard.press("Escape")
    assert tab.value("() => explore.state.focus") == -1
    tab.page.focus("#tab-legend")
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("#image").is_visible() and tab.page.locator("#legend").is_hidden()


def test_wheel_and_drag_keep_what_is_under_the_pointer(tab, given):
    row = alone(given)
    before = np.array(tab.at(row))
    pointer = before.round() + np.array([3, -2])
    scale = tab.value("() => explore.view.scale")
    tab.page.mouse.move(*pointer)
    for _ in range(8):
        tab.page.mouse.wheel(0, -120)
    tab.page.wait_for_function("scale => explore.view.scale > 10 * scale", arg=scale)
    factor = tab.value("() => explore.view.scale") / scale
    x, y = tab.at(row)
    assert np.allclose((x, y), pointer + factor * (before - pointer), atol=0.01)
    tab.drag([(x, y), (x + 20, y), (x + 60, y + 40)])
    assert np.allclose(tab.at(row), (x + 60, y + 40), atol=0.5)
    assert tab.value("() => explore.state.focus") == -1  # a drag is no click


def test_pictures_on_the_map_do_not_overlap(tab, given):
    tab.page.keyboard.press("p")
    shown = tab.value("() => explore.pictures()")
    assert len(shown) > 20
    places = np.array([[one["x"], one["y"]] for one in shown])
    gap = np.abs(places[:, None] - places[None]).max(axis=2) + 1e9 * np.eye(len(places))
    assert gap.min() >= shown[0]["side"]
    box = tab.page.locator("#map").bounding_box()
    one = shown[0]
    tab.page.mouse.click(box["x"] + one["x"] + 10, box["y"] + one["y"] + 10)
    assert tab.text("#image h2") == given["key"][one["row"]]


@pytest.mark.parametrize("settings", [PHONE, {"color_scheme": "dark"}])
def test_phones_and_dark_screens(open_tab, given, settings):
    tab = open_tab(**settings)
    row = alone(given)
    if "has_touch" in settings:
        tab.page.touchscreen.tap(*tab.at(row))
    else:
        tab.page.mouse.click(*tab.at(row))
    assert tab.text("#image h2") == given["key"][row]
    width = tab.value("() => innerWidth")
    for name in TABS:
        tab.page.click(f"#tab-{name}")
        assert tab.value(WIDEST) <= width, name
    colour = "() => [...document.getElementById('dots').getContext('2d')\
      .getImageData(1, 1, 1, 1).data].slice(0, 3)"
    ground = sum(tab.value(colour))
    assert ground < 150 if settings.get("color_scheme") == "dark" else ground == 3 * 255


def test_buttons_and_pictures_have_names(tab, given):
    tab.page.mouse.click(*tab.at(alone(given)))
    nameless = tab.value(
        "() => [...document.querySelectorAll('button, select, input, canvas[role=img]')]"
        ".filter(one => !(one.getAttribute('aria-label') || one.innerText || one.title"
        " || one.labels?.length)).map(one => one.outerHTML)"
    )
    assert nameless == []


def test_odd_keys_are_text(open_tab, tmp_path):
    content = columns(30)
    content["key"][0] = "</script><img src=x onerror=alert(1)><script>alert(1)</script>"
    content["class"][0] = "<b onmouseover=alert(1)>"
    tab = open_tab(made(tmp_path, content, Options(title="<i>{{about}}</i>")))
    tab.value("() => explore.focusOn(0)")
    assert tab.text("#image h2") == content["key"][0]
    assert tab.text("h1") == "<i>{{about}}</i>"
    assert "<b onmouseover=alert(1)>" in tab.text("#image dl")


@pytest.mark.parametrize("count", [1, 2])
def test_places_alone(open_tab, tmp_path, count):
    tab = open_tab(made(tmp_path, {"x": np.arange(count) * 1e-30, "y": np.zeros(count)}))
    tab.value("() => explore.focusOn(0)")
    assert tab.text("#image h2") == "row 1"
    assert "neither neighbours nor vectors" in tab.text("#image")
    assert tab.page.locator("#tab-copies").is_hidden()


def test_fifty_thousand_images_open_and_move(open_tab, tmp_path):
    chance = np.random.default_rng(0)
    places = chance.normal(size=(50_000, 2)).astype(np.float32)
    content = {"x": places[:, 0], "y": places[:, 1], "label": chance.integers(0, 9, 50_000)}
    file = made(tmp_path, content, Options(clusters=0))
    start = time.monotonic()
    tab = open_tab(file)
    assert time.monotonic() - start < 5
    tab.drag([(640 + 5 * step, 400) for step in range(10)])
    assert tab.value("() => explore.view.x") < 0


def test_ten_thousand_photographs(open_tab, shared_data, tmp_path):
    """Real images on a map by their mean colours."""
    content: dict[str, list] = {name: [] for name in ("key", "image", "x", "y")}
    for file in sorted((shared_data / "cifar10").glob("test-*.tar")):
        with tarfile.open(file) as shard:
            for member in shard:
                if member.name.endswith(".jpg"):
                    file_inside = shard.extractfile(member)
                    assert file_inside is not None
                    data = file_inside.read()
                    with Image.open(io.BytesIO(data)) as image:
                        mean = np.asarray(image.convert("RGB").reduce(32))[0, 0].astype(float)
                    content["key"].append(member.name)
                    content["image"].append(data)
                    content["x"].append(mean[0] - mean[2])
                    content["y"].append(mean.sum())
    page = made(tmp_path, content, Options(clusters=0))
    assert len(content["key"]) == 10_000 and page.stat().st_size < 8e6
    tab = open_tab(page)
    row = 4321
    tab.value("row => explore.flyTo(row, 400)", row)
    x, y = tab.at(row)
    tab.page.mouse.move(x, y)
    shown = content["key"].index(tab.text("#tip b"))
    assert np.abs(np.subtract(tab.at(shown), (x, y))).max() < 60
    pixels = """() => {
      const canvas = document.querySelector("#tip canvas");
      return [...canvas.getContext("2d").getImageData(0, 0, 32, 32).data];
    }"""
    tab.page.wait_for_function(f"() => ({pixels})()[3] === 255")
    drawn = np.array(tab.value(pixels)).reshape(32, 32, 4)[..., :3].astype(float)
    original = np.asarray(Image.open(io.BytesIO(content["image"][shown])).convert("RGB"))
    assert np.sqrt(np.mean((drawn - original) ** 2)) < 10  # levels of 255: one more JPEG
