"""Recipes: YAML files of settings that the package brings along, found by name.

A recipe is called by its file's stem, by the part before its patch size (`mae pretrain vit_small`
trains vit_small_patch16_224, though there is vit_small_rope), or by any beginning that fits no
other recipe of the command.  Launcher files are beside them.
"""

import difflib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import mae
from mae.base.errors import UserError
from mae.objectives.registry import DEFAULT, declaration

AUTO = "auto"
"""word in place of a recipe, for settings that are chosen from the images and the machine"""
AUTO_COMMAND = "mae pretrain"
"""command that takes it"""
PACKAGE = Path(mae.__file__).parent
SUFFIXES = (".yaml", ".yml")
SIMILAR = 0.65
"""similarity, from 0 to 1, from which a misspelt name is corrected in a message"""


class Recipe:
    """Shipped file of settings: its name, and what the comment at its head says."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name = file.stem

    @cached_property
    def text(self) -> str:
        """Content of the file."""
        return self.file.read_text()

    @property
    def objective(self) -> str:
        """Objective that the recipe trains."""
        return _written(r"objective: *(\w+)", self.text) or DEFAULT

    @property
    def command(self) -> str:
        """Command that trains it, such as `mae pretrain`."""
        return declaration(self.objective).command

    @property
    def summary(self) -> str:
        """First sentence of its header, and what it is for; without sources in brackets."""
        prose = re.sub(r"\s*\([^()]*\)", "", " ".join(header(self.text)))
        purpose = re.search(r"\.\s+For ([^.;:]+)", prose)
        return re.split(r"[.;](?:\s|$)", prose)[0] + (f"; for {purpose[1]}" if purpose else "")

    @property
    def hardware(self) -> str:
        """Hardware that it is meant for; "" where the header names none."""
        found = re.search(r"Hardware: ([^.,;]+)", " ".join(header(self.text)))
        return found[1].strip() if found else ""

    @property
    def img_size(self) -> int | None:
        """Side of the images in pixels; None: that of the model which it builds on."""
        side = _written(r" *(?:data: *\{)?img_size: *(\d+)", self.text)
        side = side or _written(r".*\bencoder: *\w+_(\d+)\b", self.text)
        return int(side) if side else None


def _written(pattern: str, text: str) -> str:
    """Group of the first line that begins with `pattern`, a regular expression; "" for none."""
    found = re.search(f"^{pattern}", text, re.M)
    return found[1] if found else ""


def header(text: str) -> list[str]:
    """Lines of the comment at the head of a file, without a script's first line."""
    lines = []
    for line in text.removeprefix("#!/bin/bash\n").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return lines


def recipes() -> list[Recipe]:
    """All recipes, by folder and name."""
    folder = _shipped("recipes", "configs")
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.parts), file.name))
    return [Recipe(file) for file in files]


def launchers() -> list[Path]:
    """Files for launchers: accelerate's settings, and the script for SLURM."""
    folder = _shipped("launchers", "launch")
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.sbatch")])


def _shipped(installed: str, cloned: str) -> Path:
    """Folder of shipped files: inside an installed package, or beside the package of a clone."""
    inside = PACKAGE / installed
    return inside if inside.is_dir() else PACKAGE.parent / cloned


def recipe_name(path: Path) -> str:
    """Name of the recipe that the file `path` is; "" for any other file."""
    resolved = path.resolve()
    return next((one.name for one in recipes() if one.file.resolve() == resolved), "")


def find_recipe(name: str | Path, command: str) -> Path:
    """Path of the settings that a command line names: a file, or a recipe that `command` trains.

    An existing file is that file, with or without a suffix.  Any other word without folder and
    suffix is a recipe: its name, or a beginning that fits one alone.  A path is returned as it
    is, even where nothing is there: whoever reads it reports that.

    Raises UserError where the name fits no recipe of `command`, or several.
    """
    path = Path(name)
    is_path = path.name != str(name) or path.suffix in SUFFIXES
    if is_path or path.is_file():
        return path
    every = recipes()
    found = matching(str(name), every)
    own = [one for one in found if one.command == command]
    if len(own) == 1:
        return own[0].file
    if own:
        raise UserError(f"{name}: several recipes begin so: {_names(own)}")
    if path.is_dir():
        return path
    if found:
        verb = "trains it" if len(found) == 1 else "trains them"
        raise UserError(f"{_names(found)}: {found[0].command} {verb}")
    names = [AUTO] * (command == AUTO_COMMAND)
    names += [one.name for one in every if one.command == command]
    raise UserError(
        f"{name}: no such config file in {Path.cwd()}, and no recipe: "
        f"{did_you_mean(str(name), names)}"
    )


def matching(name: str, every: Sequence[Recipe]) -> list[Recipe]:
    """The recipe of this name, whole or up to its patch size, else those whose names begin so."""
    wanted = _plain(name)
    exact = [one for one in every if one.name == wanted]
    sized = [one for one in every if wanted and one.name.partition("_patch")[0] == wanted]
    return exact or sized or [one for one in every if wanted and one.name.startswith(wanted)]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Proposal for a misspelt name or beginning of a name."""
    wanted = _plain(name)

    def similarity(one: str) -> float:
        return max(
            difflib.SequenceMatcher(None, wanted, part).ratio()
            for part in (one, one[: len(wanted)])
        )

    best = max(known, key=similarity)
    return f"did you mean {best}?" if similarity(best) >= SIMILAR else "mae recipes lists them"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _names(found: Sequence[Recipe]) -> str:
    return ", ".join(one.name for one in found)
