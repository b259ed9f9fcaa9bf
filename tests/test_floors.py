"""Imports go down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mae

# Lowest first.  A package is one floor: its modules may import each other; a module of a package
# that is named here has a floor of its own.
NAMES = """
    base
    config.types config.sections
    objectives.charts objectives.declaration objectives.registry
    config
    decoding storage data pack data.opening data.training_data data.file_manifest data.shard_stream
    networks
    objectives.base objectives.capabilities objectives.implementation
    objectives.shared_sections training.checkpoint pretrained_weights
    evaluation export pictures objectives anomaly generation latents similarity explore
    sparse_features compression
    training report
    commands pretrain finetune cli __main__ api
"""
FLOORS: dict[str, int] = {name: floor for floor, name in enumerate(NAMES.split())}

ROOT = Path(mae.__file__).parent
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def floor_name(module: str) -> str:
    """`data.scan` → `data`: the longest part of its name that has a floor."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in FLOORS), "")


def floor_of(module: str) -> int:
    """`data.scan` → the number of its floor; the package's own names may be used anywhere."""
    if module == "__init__":  # names public classes, which it imports when they are used
        return len(FLOORS)
    return FLOORS[floor_name(module)] if module else -1


CONTRACT = tuple(
    f"objectives/{name}.py"
    for name in ("base", "charts", "declaration", "implementation", "registry")
)
"""modules low down that name types of what lies above them, under `if TYPE_CHECKING:` alone"""


def is_for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, which imports nothing at run time."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes_of(tree: ast.AST, with_types: bool) -> Iterator[ast.AST]:
    """Yield the nodes below `tree`; `with_types` includes those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if with_types or not is_for_types(node):
            yield node
            yield from nodes_of(node, with_types)


def imported_modules(path: Path) -> list[str]:
    """Names below `mae` that a module imports anywhere, `from mae import cli` included."""
    names = []
    is_contract = path.as_posix() in CONTRACT
    for node in nodes_of(ast.parse((ROOT / path).read_text()), with_types=not is_contract):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in whole if name.partition(".")[2] in FLOORS]
            names += modules or [str(node.module)]
    return [name.partition(".")[2] for name in names if name.split(".")[0] == "mae"]


def module_name(path: Path) -> str:
    """`data/scan.py` → `data.scan`."""
    return ".".join(path.with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down_only(path):
    own = floor_name(module_name(path))
    for module in imported_modules(path):
        other = floor_name(module)
        is_lower = floor_of(module) < floor_of(module_name(path))
        assert other == own or is_lower, f"{path} imports mae.{module}"


def test_every_floor_has_its_module():
    found = {floor_name(module_name(path)) for path in MODULES}
    assert found - {""} == {*FLOORS}
    assert all(floor_name(module_name(path)) for path in MODULES if path.name != "__init__.py")


def test_no_modules_import_each_other():
    """No circle of imports, inside functions or not."""
    graph = {module_name(path).removesuffix(".__init__"): targets(path) for path in MODULES}
    while leaves := {name for name, found in graph.items() if not found & graph.keys()}:
        graph = {name: found for name, found in graph.items() if name not in leaves}
    assert not graph


def targets(path: Path) -> set[str]:
    """Modules that a module imports, for type checkers too, but for those of the contract."""
    names = set()
    is_contract = path.as_posix() in CONTRACT
    for node in nodes_of(ast.parse((ROOT / path).read_text()), with_types=not is_contract):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "mae":
            package = str(node.module).partition(".")[2]
            for alias in node.names:
                submodule = f"{package}.{alias.name}"
                names.add(
                    submodule
                    if Path(*submodule.split(".")).with_suffix(".py") in MODULES
                    else package
                )
    return names
