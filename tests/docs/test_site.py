"""Documentation site: built strictly, complete, and without anything loaded from elsewhere."""

import html
import re
import subprocess
import sys
from argparse import _SubParsersAction
from pathlib import Path

import pytest

import mae
from mae.cli import build_parser
from mae.objectives.registry import declarations

ROOT = Path(__file__).parents[2]
STRICT = ["-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html", "-c", str(ROOT / "docs")]
LOADED = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"')


def build(source: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, *STRICT, str(source), str(site)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text()))


def test_site_has_every_page_and_a_search_that_needs_no_server(site):
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]:
        assert (site / f"{page.stem}.html").exists(), page.name
    assert (site / "searchindex.js").read_text().startswith("Search.setIndex(")
    assert "BENCHMARKS" in (site / "index.html").read_text()


def test_pages_load_nothing_from_elsewhere(site):
    assert not [found for page in site.glob("*.html") for found in LOADED.findall(page.read_text())]
    assert "@import" not in "".join(path.read_text() for path in site.glob("_static/**/*.css"))


def test_every_command_and_setting_has_its_entry(site):
    page = (site / "COMMANDS.html").read_text()
    (parsers,) = (a for a in build_parser()._actions if isinstance(a, _SubParsersAction))
    assert len(parsers.choices) > 30
    assert [name for name in parsers.choices if f'id="mae-{name}"' not in page] == []
    text = text_of(site / "SETTINGS.html")
    for declared in (*declarations("mae pretrain"), *declarations("mae finetune")):
        assert f"objective: {declared.name}" in text
        for key in declared.model.model_fields:
            assert f"model.{key}" in text, (declared.name, key)


def test_every_public_name_has_its_docstring(site):
    page, text = (site / "API.html").read_text(), text_of(site / "API.html")
    for name in mae.__all__:
        assert f'id="mae.{name}"' in page, name
    assert "Batches of shards in an order" in text


def test_generated_text_has_a_line_in_the_clone_alone_that_says_where_it_is(site):
    where = "The site that `launch/docs.sh` builds"
    found = 0
    for page in (ROOT / "docs").glob("*.md"):
        generated = page.read_text().split("\n<!-- generated: ")[:-1]
        assert all(where in before[-300:] for before in generated), page.name
        found += len(generated)
        assert where.replace("`", "") not in text_of(site / f"{page.stem}.html")
    assert found == 4


def test_broken_links_anchors_and_pictures_fail(tmp_path):
    links = "[a](nothing.md) [b](#nowhere) [c](other.md#neither) ![d](no.png)"
    (tmp_path / "index.md").write_text(f"# A\n\n{links}\n")
    (tmp_path / "other.md").write_text("---\norphan: true\n---\n# B\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for word in ("nothing.md", "nowhere", "neither", "no.png"):
        assert word in done.stderr
