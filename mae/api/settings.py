"""Settings given as Python values: recipes, sections, dotted keys."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.config.migration import rename_old_keys
from mae.config.recipes import find_recipe
from mae.config.sections import Config
from mae.pretrain import COMMAND as PRETRAIN
from mae.training.auto import AUTO, settings_of

File = str | os.PathLike[str]
Recipe = File | Mapping[str, Any] | Config
"""name of a recipe, path of a YAML file, or settings by section"""
Data = File | Sequence[File] | Mapping[str, Any]
"""one or several shards; or the section `data` as a mapping"""

Reported = TypeVar("Reported", bound=BaseException)
"""type of an error that is reported in words"""

SOURCES = {"command line": "settings", "defaults": "recipe"}
"""words of the command's messages on where a setting is from → words for a call"""


def recipe_settings(recipe: Recipe, words: Sequence[str], *, is_whole: bool = True) -> Config:
    """Settings of a recipe, with `words` (section.key=value) in place of its own.

    Args:
        recipe: path of a YAML file, name of a recipe, or its content: a mapping of sections, or a
            `Config`, such as that of another run.
        words: settings to override, as `setting_words` makes them.
        is_whole: those of `mae pretrain`, which may be chosen by "auto"; else of an objective
            alone, whatever trains it.

    Raises:
        UserError: with one line per wrong setting.
    """
    command = PRETRAIN if is_whole else None
    if isinstance(recipe, Config):
        recipe = recipe.model_dump(mode="json")
    if isinstance(recipe, Mapping):
        written = rename_old_keys(plain(recipe), "recipe")
        return load_config(None, words, base=written, command=command)
    named = expanded(recipe)
    if is_whole:
        return settings_of(named, words, PRETRAIN)
    if named == AUTO:
        raise UserError(
            'recipe: "auto" chooses by the data, which mae.train("auto", …) has: give a recipe here'
        )
    return load_config(find_recipe(named, PRETRAIN), words)


def setting_words(
    data: Data | None,
    val: File | Sequence[File] | None,
    out: File | None,
    settings: Mapping[str, Any],
) -> list[str]:
    """Settings of a call as the words of a command line: section.key=value.

    Args:
        data: value of data.train, or the section `data`.
        val: value of data.val.
        out: value of output.
        settings: section → its settings by key, or dotted key → value.

    Raises:
        UserError: where a setting is given twice.
    """
    given = [("data", data)] if isinstance(data, Mapping) else [("data.train", data)]
    named = [*given, ("data.val", val), ("output", out)]
    words: dict[str, str] = {}
    for name, value in (*((n, v) for n, v in named if v is not None), *settings.items()):
        for key, one in _dotted(name, plain(value)):
            if key in words:
                raise UserError(f"settings: {key} is given twice")
            # JSON is YAML; quoted, a text stays a text, whatever it looks like.
            words[key] = f"{key}={json.dumps(one, ensure_ascii=False)}"
    return list(words.values())


def expanded(path: File) -> str:
    """`path` as text, with the folder of a user for a leading ~."""
    text = os.fspath(path)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def as_call(error: Reported) -> Reported:
    """The same error in the words of a call, whose settings come from no command line.

    Without the functions that it passed: they say nothing on wrong input.
    """
    text = re.sub(r"^--([a-z-]+)", lambda found: found[1].replace("-", "_"), str(error))
    for source, name in SOURCES.items():
        text = re.sub(rf"^{source}: ", f"{name}: ", text, flags=re.MULTILINE)
    return type(error)(text)


def _dotted(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Keys `section.key` of a section; a name with a dot, or a value alone, is one setting."""
    if "." in name or not isinstance(value, Mapping):
        yield name, value
        return
    for key, one in value.items():
        yield f"{name}.{key}", one


def plain(value: Any) -> Any:
    """`value` in the types of JSON: paths as text, tuples as lists, NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of NumPy or torch
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
