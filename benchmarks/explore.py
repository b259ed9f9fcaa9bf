"""Opening time, size and frame rate of the page of `mae explore`: `python -m benchmarks.explore`.

Tables are synthetic (a drawing per image) unless --table names one.  Needs Chromium and playwright.
"""

import argparse
import io
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mae.base.errors import UserError
from mae.base.exit_status import exit_code
from mae.explore.content import read_content
from mae.explore.page import write_page
from mae.explore.table import read_table

CLASSES = 10
DIMENSIONS = 16
SIDE = 48
"""of the drawings in pixels"""
GROUP = 2000
"""rows of a row group"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FRAMES = 40
"""frames of the movement that is measured"""
MOVE = """async (frames) => {
  const { view, at } = window.explore;
  const map = document.getElementById("map");
  const box = map.getBoundingClientRect();
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  const send = (kind, dx) => map.dispatchEvent(new PointerEvent(kind,
    { pointerId: 1, clientX: x + dx, clientY: y, bubbles: true, isPrimary: true }));
  map.setPointerCapture = () => {};
  send("pointerdown", 0);
  const times = [];
  let before = performance.now();
  for (let frame = 1; frame <= frames; frame++) {
    send("pointermove", 6 * frame);
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push((now - before) / 2);
    before = now;
  }
  send("pointerup", 6 * frames);
  return times;
}"""
"""milliseconds of each frame while the map is dragged"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.explore",
        description=(__doc__ or "").partition(":")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--table", type=Path, nargs="*", default=[], help="Parquet files instead")
    parser.add_argument("--repeat", type=int, default=3, help="openings of each page")
    args = parser.parse_args(argv)
    return exit_code(lambda: run(args), "benchmarks")


def run(args: argparse.Namespace) -> None:
    """Measure each page, print a line for each."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError("no Chromium found: install the package chromium")
    print("images   page MB   written s   map s   whole page s   ms a frame: best, median, worst")
    with tempfile.TemporaryDirectory() as folder:
        tables = args.table or [
            synthetic_table(Path(folder, f"{count}.parquet"), count) for count in args.images
        ]
        for file in tables:
            measure(file, Path(folder, "map.html"), browser, args.repeat)


def measure(file: Path, page: Path, browser: str, repeat: int) -> None:
    """Write, open and move one page; print its line."""
    start = time.perf_counter()
    table = read_table(file)
    write_page(read_content(table), page)
    written = time.perf_counter() - start
    found = [open_page(page, browser) for _ in range(repeat)]
    drawn = statistics.median(one.drawn for one in found)
    loaded = statistics.median(one.loaded for one in found)
    frames = found[0].frames
    print(
        f"{table.rows:6,} {page.stat().st_size / 1e6:9.1f} {written:11.1f} {drawn:7.2f} "
        f"{loaded:14.2f}   {min(frames):.0f}, {statistics.median(frames):.0f}, {max(frames):.0f}"
    )


class Opening(NamedTuple):
    """Times of one opening of a page."""

    drawn: float
    """seconds until the map is drawn"""
    loaded: float
    """seconds until all thumbnails are read"""
    frames: list[float]
    """milliseconds of each frame while the map is dragged"""


def open_page(page: Path, browser: str) -> Opening:
    """Open a page in a fresh browser, and drag its map."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium: Any = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        tab.goto(page.resolve().as_uri(), wait_until="commit")
        tab.wait_for_selector("html[data-ready]", state="attached")
        drawn = time.perf_counter() - start
        tab.wait_for_load_state("load")
        loaded = time.perf_counter() - start
        frames = tab.evaluate(MOVE, FRAMES)
        chromium.close()
    return Opening(drawn, loaded, frames)


def synthetic_table(file: Path, count: int) -> Path:
    """Write a table of `count` drawings in groups, their vectors and places."""
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    centres = rng.normal(size=(CLASSES, DIMENSIONS)).astype(np.float32)
    vectors = centres[labels] + 0.4 * rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
    neighbours = np.stack([(np.arange(count) + step) % count for step in range(1, 11)], axis=1)
    writer = None
    for start in range(0, count, GROUP):
        rows = slice(start, min(start + GROUP, count))
        size = len(labels[rows])
        flat = pa.array(vectors[rows].ravel())
        lists = {
            "ids": neighbours[rows].tolist(),
            "distances": rng.random((size, 10)).astype(np.float32).tolist(),
        }
        table = pa.table(
            {
                "key": [f"image-{number:06d}" for number in range(start, start + size)],
                "label": labels[rows],
                "vector": pa.FixedSizeListArray.from_arrays(flat, DIMENSIONS),
                "image": [{"bytes": drawing(rng), "path": None} for _ in range(size)],
                "x": vectors[rows, 0],
                "y": vectors[rows, 1],
                "neighbours": [
                    dict(zip(lists, values, strict=True))
                    for values in zip(*lists.values(), strict=True)
                ],
                "outlier": rng.random(size).astype(np.float32),
            }
        )
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return file


def drawing(rng: np.random.Generator) -> bytes:
    """JPEG of a few shapes over a gradient, with noise as photographs have."""
    ramp = np.linspace(0, 1, SIDE)[:, None, None] * rng.uniform(-80, 80, 3)
    noise = rng.normal(0, 8, (SIDE, SIDE, 3))
    pixels = (rng.uniform(60, 200, 3) + ramp + noise).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for x, y, width, height, *colour in rng.integers(
        0, [SIDE, SIDE, SIDE, SIDE, 256, 256, 256], (3, 7)
    ).tolist():
        draw.ellipse((x, y, x + width, y + height), fill=tuple(colour))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
