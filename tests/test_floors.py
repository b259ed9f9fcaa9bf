"""Imports go down only."""

import ast
from pathlib import Path

import pytest

import mae

# Lowest first.  A package is one floor: its modules may import each other.
NAMES = """
    errors cores allocator device folders exits family results hashing tensor_hashing section config
    contradictions settings recipes patches masking schedule objective decoding remote data models
    training initial evaluation export visualize panels watching loop report pictures packing
    bench commands supervise start pretrain finetune options cli __main__
"""
FLOORS: dict[str, int] = {name: floor for floor, name in enumerate(NAMES.split())}

ROOT = Path(mae.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def floor_of(module: str) -> int:
    """`data.tar` → the number of its floor; the package itself lies below all."""
    return FLOORS[module.split(".")[0]] if module not in ("", "__init__") else -1


def imported_modules(path: Path) -> list[str]:
    """Names below `mae` that a module imports anywhere, `from mae import cli` included."""
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            submodules = [alias.name for alias in node.names] if node.module == "mae" else []
            names += [f"mae.{name}" for name in submodules if name in FLOORS] or [str(node.module)]
    return [name.partition(".")[2] for name in names if name.split(".")[0] == "mae"]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down_only(path):
    own = floor_of(path.parts[0].removesuffix(".py"))
    for module in imported_modules(path):
        same_package = len(path.parts) > 1 and module.split(".")[0] == path.parts[0]
        assert same_package or floor_of(module) < own, f"{path} imports mae.{module}"


def test_every_floor_has_its_module():
    assert {path.parts[0].removesuffix(".py") for path in MODULES} == {*FLOORS, "__init__"}
