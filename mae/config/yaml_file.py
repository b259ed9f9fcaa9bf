"""YAML files of people and strangers: duplicate keys, alias bombs and other traps are refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from mae.base.errors import UserError
from mae.base.rows import read_file
from mae.config.recipes import recipes

MAX_BYTES = 1 << 20
"""maximum size of a text"""
MAX_VALUES = 100_000
"""maximum number of values, those that aliases repeat included"""


class _Loader(yaml.SafeLoader):
    """Loader that refuses what PyYAML accepts silently: duplicate keys, and keys that are no text.

    It also refuses aliases that multiply to more than MAX_VALUES values.
    """

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _count(node, {}) > MAX_VALUES:
            raise ConstructorError(problem=f"more than {MAX_VALUES:,} values, by its aliases")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        times = Counter(str(key.value) for key, _ in node.value)
        for key, _ in node.value:
            if times[str(key.value)] > 1:
                raise ConstructorError(
                    problem=f"{key.value} is written twice", problem_mark=key.start_mark
                )
        found = super().construct_mapping(node, deep)
        for key in found:
            if not isinstance(key, str):
                raise ConstructorError(
                    problem=f"the key {key!r} is no name: write it in quotes",
                    problem_mark=node.start_mark,
                )
        return found


def parse_yaml(data: bytes) -> Any:
    """Values of a YAML document.

    Raises ValueError, on one line, where it is no text, no YAML, or too large or nested.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data) / 1e6:,.1f} MB are too much for settings")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is no text in UTF-8: {error}") from None
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as a date of month 13
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Nested settings of a YAML file.

    Raises UserError where the file is absent, unreadable or holds no sections.
    """
    if not path.exists() or path.is_dir():
        raise UserError(_absent(path))
    try:
        values = parse_yaml(read_file(path))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise UserError(f"{path}: not readable as YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a config: write sections such as `model:`")
    # YAML reads a section whose lines are all commented out as None.
    plain = ("output", "objective", "recipe")
    return {k: {} if v is None and k not in plain else v for k, v in values.items()}


def _absent(path: Path) -> str:
    """Message on a config file that is a folder, or does not exist."""
    if path.is_dir():
        if (path / "config.yaml").exists():
            return f"{path}: is a run folder: its own settings are {path}/config.yaml"
        return f"{path}: is a folder, not a config file{_files(path)}"
    if any(path.name == recipe.file.name for recipe in recipes()):
        return f"{path}: no such config file in {Path.cwd()}: the recipe's name is {path.stem}"
    return f"{path}: no such config file{_files(path.parent)}"


def _files(folder: Path) -> str:
    near = sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []
    return f" ({folder} has {', '.join(near)})" if near else ""


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values below `node`, an alias counted as often as it stands there."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # until it is known: a node inside itself has no end
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [one for pair in parts for one in pair]
        known[id(node)] = 1 + sum(_count(one, known) for one in parts)
    return known[id(node)]
