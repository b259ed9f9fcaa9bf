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


LINK = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, by GitHub's rule, which the site follows.

    Words in small letters, hyphens for spaces, other signs left out; a number from the second on.
    """
    found: list[str] = []
    for line in re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).splitlines():
        if heading := re.match(r"#{1,6} +(.*)", line):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return {f"{one}-{n}" if (n := found[:at].count(one)) else one for at, one in enumerate(found)}


def test_anchors_follow_githubs_rule():
    text = "# A `data.x`, b-c_d\n## [Two](x.md) & 3\n```\n# no\n```\n### Two & 3\n"
    assert anchors(text) == {"a-datax-b-c_d", "two--3", "two--3-1"}


@pytest.mark.parametrize("page", PAGES)
def test_headings_that_a_page_links_to_exist(page):
    links = [found for found in LINK.findall((ROOT / page).read_text()) if "://" not in found[0]]
    missing = []
    for target, anchor in links:
        file = (ROOT / page).parent / target if target else ROOT / page
        if file.suffix == ".md" and anchor not in anchors(file.read_text()):
            missing.append(f"{target}#{anchor}")
    assert not missing


def test_modules_that_the_architecture_names_exist():
    """Also those named without their folder, as in the drawings."""
    names = set(re.findall(r"[\w/]+\.py", (ROOT / "docs/ARCHITECTURE.md").read_text()))
    known = ["/" + path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")]
    missing = [name for name in names if not any(one.endswith(f"/{name}") for one in known)]
    assert sorted(name for name in missing if not re.search("NAME|MODULE", name)) == []


def test_readme_is_short_and_its_pictures_are_small():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) >= 3
    assert all((ROOT / picture).stat().st_size < 300_000 for picture in pictures)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = "|".join(PROJECT["optional-dependencies"])
INSTALLS = r"\b(?:pip3?|pipx|uv|uvx|conda|mamba)\b[^\n]*[ \t'\"`]"
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
    assert not ANOTHERS.search(f"{line.format('maekit')}\nmae pretrain")


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SOURCE = re.compile(r"\b(?:table \d|\w+\.md\b|mmpretrain|github\.com/|measured)")
FIGURE = re.compile(r"\b\d\d\.\d\b")


def expectations(path: Path) -> str:
    """Text of a config's header from "Expected" to the hardware or the command."""
    lines = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
    text = " ".join(lines).partition("Expected")[2]
    return re.split(r" Hardware: | Two CPU cores| accelerate launch | mae (?:pre|fine)", text)[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_expected_figure_of_a_config_names_its_source(path):
    """In brackets behind it, before the next figures that have another."""
    text = expectations(path)
    assert text
    for figures, source in re.findall(r"([^()]*)(\([^()]*\))?", text.replace("`", "")):
        if FIGURE.search(figures) or " % " in figures:
            assert SOURCE.search(source), figures


def test_expected_figures_of_the_recipes_page_are_those_of_the_configs():
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\|([^|]*)\|([^|]*)\|$",
        (ROOT / "docs/PRETRAINING.md").read_text(),
        re.M,
    )
    assert len(rows) == len([path for path in CONFIGS if "finetune" not in path.stem])
    for name, figures, source in rows:
        text = expectations(ROOT / f"configs/{name}.yaml")
        assert source.strip(), name
        for figure in FIGURE.findall(figures):
            assert figure in text, (name, figure)
        for recipe in re.findall(r"`(\w+)`", figures):
            assert recipe in text
            assert FIGURE.findall(figures)[0] in expectations(ROOT / f"configs/{recipe}.yaml")
