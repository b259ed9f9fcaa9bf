"""Documents: every file and folder that they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "BENCHMARKS.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
PATH = re.compile(r"(?<![\w/.:])(?:mae|tests|benchmarks|configs|launch|docs)/[\w./-]*[\w/]")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    names = set(PATH.findall((ROOT / page).read_text()))
    missing = sorted(
        name
        for name in names
        if not (ROOT / name).exists() and "NAME" not in name and "MODULE" not in name
    )
    assert not missing
