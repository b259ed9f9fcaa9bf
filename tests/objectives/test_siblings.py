"""Independence of the core: no file outside `mae/objectives/NAME/` names the objective NAME.

That includes its classes and its settings.

`benchmarks/` is outside the package: it sets masked autoencoding beside other implementations.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import mae
from mae.objectives.registry import OBJECTIVES, declaration

ROOT = Path(mae.__file__).parent
REGISTRY = ROOT / "objectives" / "registry.py"
"""names all objectives in its dict"""


def package_of(name: str) -> Path:
    return ROOT.joinpath(*OBJECTIVES[name].split(".")[1:])


def outside(name: str) -> list[Path]:
    """Modules outside the objective's package."""
    own = package_of(name)
    return [path for path in sorted(ROOT.rglob("*.py")) if own not in path.parents]


def classes_of(name: str) -> set[str]:
    """Classes that only its modules define (others may have a `Block`, too)."""
    return classes(package_of(name).rglob("*.py")) - classes(outside(name))


def classes(paths: Iterable[Path]) -> set[str]:
    return set().union(*map(classes_in, paths))


@cache
def classes_in(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in tree if isinstance(node, ast.ClassDef)}


@cache
def names_in(path: Path) -> list[tuple[int, str]]:
    return list(found_names(path))


def found_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of imports and names that a module uses; in strings `a.b` and `CamelCase`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, str(node.module)
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            owner, _, name = ast.unparse(node).rpartition(".")
            yield node.lineno, f"{owner}.{name.lower()}"  # a foreign module's class is not ours
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.findall(r"\w+(?:\.\w+)+|[A-Z][a-z]+[A-Z]\w+", node.value)
            yield from ((node.lineno, word) for word in found)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_other_module_names_it(name):
    declared = declaration(name)
    section = declared.section[0] if declared.section else None
    names = {declared.model.__name__, *classes_of(name)}
    found = []
    for path in outside(name):
        for line, word in names_in(path):
            is_imported = word.startswith(OBJECTIVES[name]) and path != REGISTRY
            # `finetune.mixup` or `config.finetune`, not the module `mae.finetune`
            is_setting = section in word.split(".") and "." in word and word[:4] != "mae."
            if is_imported or names & set(word.split(".")) or is_setting:
                found.append(f"{path.relative_to(ROOT)}:{line}: {word}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_compares_the_objective_name(path):
    """No `config.objective == "…"`, except an objective's comparison with its own name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            sides: list[ast.expr] = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject]
        elif isinstance(node, ast.Subscript):
            sides = [node.value, node.slice]
        else:
            continue
        texts = [ast.unparse(side) for side in sides]
        asks = any(text.endswith(("objective", "'objective')")) for text in texts)
        literals = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
        assert not (asks and literals & set(OBJECTIVES)), f"{path}:{node.lineno}"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_its_declaration_is_complete(name):
    declared = declaration(name)
    assert declared.name == name and declared.summary and declared.command
    assert set(declared.statistics.values()) <= {"mean", "sum"}
    assert declared.guarded_loss in (None, *declared.losses)
