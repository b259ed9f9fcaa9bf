"""Reference of the Python API, from the docstrings of `mae.__all__` and of the contract."""

import inspect
import re
from importlib import import_module

import mae

FENCE = re.compile(r"^(\s*)```(\w*)\s*$")


def api_page(*names: str) -> str:
    """Markdown with one entry for each of `names` (default: the public names of `mae`)."""
    chosen = names or tuple(f"mae.{name}" for name in mae.__all__)
    return "\n\n".join(_entry(name) for name in chosen)


def _entry(name: str) -> str:
    """Heading and docstring, with those of the members of a class."""
    module, _, attribute = name.rpartition(".")
    thing = getattr(import_module(module), attribute)
    if inspect.isclass(thing):
        directive = [f".. autoclass:: {name}", "   :members:", "   :member-order: bysource"]
    elif callable(thing):
        directive = [f".. autofunction:: {name}"]
    else:
        directive = [f".. autodata:: {name}"]
    lines = [f"## {name}", "", "```{eval-rst}", *directive, "```"]
    return "\n".join(lines)


def as_restructured_text(lines: list[str]) -> list[str]:
    """Lines of a docstring with its fenced code as the code blocks of reStructuredText."""
    result: list[str] = []
    indent = None
    for line in lines:
        fence = FENCE.match(line)
        if fence and indent is None:
            indent = fence[1]
            result += ["", f"{indent}.. code-block:: {fence[2] or 'text'}", ""]
        elif fence:
            indent = None
            result.append("")
        else:
            result.append(line if indent is None or not line.strip() else f"   {line}")
    return result
