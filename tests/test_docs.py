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


def test_modules_that_the_architecture_names_exist():
    """Also those named without their folder, as in the drawings."""
    names = set(re.findall(r"[\w/]+\.py", (ROOT / "docs/ARCHITECTURE.md").read_text()))
    known = ["/" + path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")]
    missing = [name for name in names if not any(one.endswith(f"/{name}") for one in known)]
    assert sorted(name for name in missing if not re.search("NAME|MODULE", name)) == []
