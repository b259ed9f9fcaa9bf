"""Command lines in the documents: each parses, and its settings are valid."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mae.cli import ENTRY_POINTS, build_parser
from mae.config.loading import load_config
from mae.config.recipes import find_recipe
from mae.objectives.classifier.recipe import recipe_for

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "BENCHMARKS.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
FOR_ONE_PAGE = ("…", "I/N")
"""parts of a line that stand for words of the reader"""

# The shell expands variables, braces and quotes; `mae` prints its words, no other program is found.
SHELL = r"""
PATH=
mae() { printf '%s\0' mae "$@"; printf '\n'; }
accelerate() {
    while [ "$1" ] && [ "$1" != -m ]; do shift; done
    [ "$2" = mae ] || mae "${2#mae.}" "${@:3}"
    [ "$2" != mae ] || mae "${@:3}"
}
command_not_found_handle() { :; }
set +e
"""


def commands(page: str, folder: Path) -> list[list[str]]:
    """Words of each command of mae in the blocks of a page."""
    text = "\n".join(BLOCK.findall((ROOT / page).read_text()))
    lines = [line for line in text.replace("\\\n", " ").split("\n")]
    text = "\n".join(line for line in lines if not any(part in line for part in FOR_ONE_PAGE))
    done = subprocess.run(
        ["/bin/bash", "-c", SHELL + text], capture_output=True, text=True, cwd=folder
    )
    printed = [line.rstrip("\0").split("\0") for line in done.stdout.split("\n")]
    return [words[1:] for words in printed if words[0] == "mae" and len(words) > 1]


def check(words: list[str]) -> None:
    name, *rest = words
    if name not in ENTRY_POINTS:
        build_parser().parse_args(without_processes(words))
        return
    rest = [word for word in without_processes(rest) if word not in ("--dry-run", "--supervise")]
    if not rest or "--help" in rest:
        return
    source, *settings = rest
    command = f"mae {name}"
    if name == "finetune":  # SOURCE is a run
        load_config(None, settings, recipe_for("vit_base_patch16_224"), command=command)
    elif source in ("auto", "CONFIG") or source.startswith("./"):  # none, or the reader's own
        load_config(None, settings, command=command)
    else:
        load_config(find_recipe(source, command), settings, command=command)


def without_processes(words: list[str]) -> list[str]:
    if "--processes" not in words:
        return words
    at = words.index("--processes")
    return words[:at] + words[at + 2 :]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_parse_with_valid_settings(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    wrong = []
    for words in commands(page, tmp_path):
        try:
            check(words)
        except (Exception, SystemExit) as error:
            if str(error) == "0":  # --version
                continue
            said = capsys.readouterr().err.strip().rsplit("\n", 1)[-1]
            wrong.append(f"{shlex.join(words)}\n    {said or error}")
    assert not wrong, "\n".join(wrong)


def test_guides_have_commands():
    """The blocks are found: else the test above tests nothing."""
    for page in ("FIRST_HOUR", "X_RAYS", "SATELLITE", "PRODUCTION_LINES", "MICROSCOPES"):
        assert len(BLOCK.findall((ROOT / f"docs/{page}.md").read_text())) >= 2


def test_a_wrong_setting_or_option_is_found():
    with pytest.raises(Exception, match="mask_raito"):
        check(["pretrain", str(ROOT / "configs/autoencoders/ae.yaml"), "model.mask_raito=1"])
    with pytest.raises(SystemExit):
        check(["probe", "run", "--tarin", "a.tar"])
