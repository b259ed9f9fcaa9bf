"""Reference of the Python API, from the docstrings of `mae.__all__` and of the contract."""

import inspect
import re
from importlib import import_module

import mae

FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
NAME = re.compile(r"(?<![`:])`([^`]+)`(?!`)")


def api_page(*names: str) -> str:
    """Markdown with one entry for each of `names`.

    Default: the public names of `mae`, functions before classes before exceptions.
    """
    public = sorted((f"mae.{name}" for name in mae.__all__), key=_place)
    return "\n\n".join(_entry(name) for name in names or public)


def _named(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _place(name: str) -> int:
    """0 for functions, 1 for classes, 2 for exceptions."""
    thing = _named(name)
    return int(inspect.isclass(thing)) + (inspect.isclass(thing) and issubclass(thing, Exception))


def _entry(name: str) -> str:
    """Heading and docstring, with those of the members of a class."""
    thing = _named(name)
    if inspect.isclass(thing):
        directive = [f".. autoclass:: {name}", "   :members:", "   :member-order: bysource"]
    elif callable(thing):
        directive = [f".. autofunction:: {name}"]
    else:
        directive = [f".. autodata:: {name}"]
    lines = [f"## {name}", "", "```{eval-rst}", *directive, "```"]
    return "\n".join(lines)


def as_restructured_text(lines: list[str]) -> list[str]:
    """Lines of a docstring, its fenced code and names in backticks as reStructuredText has them."""
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
            named = NAME.sub(r"``\1``", line)
            result.append(named if indent is None else f"   {line}" if line.strip() else line)
    return result
