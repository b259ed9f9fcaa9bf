"""Documents: every file and folder that they name exists."""

import re
import subprocess
import tomllib
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


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = "|".join(PROJECT["optional-dependencies"])
INSTALLS = r"\b(?:pip3?|pipx|uv|uvx|conda|mamba)\b[^\n]*[\s'\"`]"
ANOTHERS = re.compile(
    rf"(?<![\w.-])mae\\?\[(?:{EXTRAS})\b|{INSTALLS}mae(?=[\s'\"`=<>~!@\[]|$)", re.M
)
"""An install of `mae`, which on the public index is another project's"""


def shipped_texts():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git work tree")
    for name in listed.stdout.splitlines():
        if name != "CHANGELOG.md":
            yield name, (ROOT / name).read_bytes().decode("utf-8", "replace")


def test_every_install_line_names_this_project_and_an_extra_it_has():
    assert PROJECT["name"] == "maekit"
    wrong, extras = [], set()
    for name, text in shipped_texts():
        wrong += [f"{name}: {found[0]}" for found in ANOTHERS.finditer(text)]
        for words in re.findall(r"maekit\\?\[([a-z][a-z0-9,-]*)", text):
            extras |= set(words.split(","))
    assert wrong == []
    assert "s3" in extras and extras <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("line", ["pip install {}", "pip install -U '{}[s3]'", "uv add {}==1"])
def test_an_install_line_by_the_old_name_is_found(line):
    assert ANOTHERS.search(line.format("mae"))
    assert not ANOTHERS.search(line.format("maekit"))
