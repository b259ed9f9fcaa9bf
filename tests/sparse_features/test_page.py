"""The page of latents, driven in Chromium: sorts, filters and pages 8,192 latents."""

import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mae.pictures.html import write_document
from mae.sparse_features.findings import kind_of
from mae.sparse_features.page import Contents, latents_page
from mae.sparse_features.pictures import data_uri
from tests.chromium import chromium

LATENTS, PICTURES = 8192, 60


def contents(title: str = "a run: latents") -> Contents:
    """Latents with random figures; the last tenth is dead, some fire by place."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for latent in range(LATENTS):
        row: dict[str, Any] = {
            "latent": latent,
            "patches": 0.0 if latent >= 0.9 * LATENTS else float(rng.random() ** 4),
            "images": float(rng.random()),
            "mean": float(rng.exponential()),
            "place": float(rng.random() ** 6),
            "class": int(rng.integers(3)),
            "auroc": float(0.5 + 0.5 * rng.random() ** 3),
            "precision": float(rng.random()),
            "top": ["</script><b>key", "other"],
        }
        rows.append({**row, "kind": kind_of(row)})
    picture = data_uri(Image.new("RGB", (400, 146), (180, 90, 20)))
    best = sorted(rows, key=lambda row: -row["auroc"])[:PICTURES]
    selectivity = {
        key: 0.61 for kind in ("all_latents", "latents", "pca") for key in (kind, f"{kind}_drawn")
    }
    figures = {
        "explained": 0.8,
        "explained_pca": 0.7,
        "explained_topk_pca": 0.85,
        "active_latents": 8.04,
        "latents": LATENTS,
        "dead": 819,
        "by_place": 12,
        "common": 3,
        "selectivity": {**selectivity, "compared": 192},
    }
    pictures = {row["latent"]: picture for row in best}
    names = ["cat", "dog", "<i>ship"]
    return Contents(title, "8,192 latents", rows, pictures, names, figures, figures, ["a note"])


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def test_the_page_sorts_filters_and_pages(browser, tmp_path):
    own = contents()
    write_document(latents_page(own), tmp_path / "page.html")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    faults: list[str] = []
    page.on("console", lambda one: faults.append(one.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    start = time.monotonic()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("article")
    assert time.monotonic() - start < 20, "opens at once, also on a busy machine"

    def heads() -> list[int]:
        texts = page.locator("article h3").all_inner_texts()
        return [int(text.split()[1]) for text in texts]

    def expected(key: str, sign: int, kinds: tuple[str, ...]) -> list[int]:
        chosen = [row for row in own.rows if row["kind"] in kinds]
        order = sorted(chosen, key=lambda row: (sign * float(f"{row[key]:.4g}"), row["latent"]))
        return [row["latent"] for row in order]

    assert heads() == expected("auroc", -1, ("",))[:25]
    assert page.locator("article img").count() == 25
    page.click("#on")
    assert heads() == expected("auroc", -1, ("",))[25:50]
    page.select_option("#sort", "rare")
    page.select_option("#kind", "place")
    assert heads() == expected("patches", 1, ("place",))[:25]
    page.select_option("#kind", "dead")
    assert "819 latents" in page.inner_text("#count") or "820 latents" in page.inner_text("#count")
    page.select_option("#kind", "all")
    page.fill("#query", "4321")
    assert heads() == [4321]
    page.fill("#query", "ship")
    page.select_option("#sort", "latent")
    ships = [row["latent"] for row in own.rows if row["class"] == 2]
    assert heads() == ships[:25] and f"{len(ships):,} latents" in page.inner_text("#count")
    assert "<i>ship" in page.inner_text("article") and not faults
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "narrow windows, too"


def test_without_labels_nothing_speaks_of_classes():
    own = contents()
    rows = [{k: v for k, v in row.items() if k not in ("class", "auroc")} for row in own.rows[:9]]
    figures = {key: value for key, value in own.figures.items() if key != "selectivity"}
    page = latents_page(own._replace(rows=rows, classes=[], figures=figures, untrained=None))
    assert "class selectivity" not in page and "best AUROC" not in page
