"""Configuration of the documentation site, built by `launch/docs.sh` (Sphinx, MyST, Furo)."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from docs.pages.api import api_page, as_restructured_text  # noqa: E402
from docs.pages.commands import commands_page  # noqa: E402
from docs.pages.drawing import with_drawings  # noqa: E402
from docs.pages.notebook import notebook_page  # noqa: E402
from docs.pages.settings import settings_page  # noqa: E402
from mae import __version__  # noqa: E402

project, author, copyright = "mae", "the authors of mae", "the authors of mae, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
root_doc = "index"
exclude_patterns = ["_build", "pages", "**/.ipynb_checkpoints"]
nitpicky = False  # types of other libraries have no pages here
default_role = "code"  # docstrings put names into single backticks
autodoc_typehints, autodoc_typehints_format = "signature", "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
autodoc_default_options = {"exclude-members": "__init__, __new__"}
autoclass_content = "both"  # the class's docstring, and that of its constructor
python_display_short_literal_types = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False

myst_heading_anchors = 4  # links to headings are checked, as on the repository's pages
myst_enable_extensions = ["attrs_block", "colon_fence"]
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = f"mae {__version__}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
pygments_style, pygments_dark_style = "friendly", "monokai"

GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands_page,
    "settings": settings_page,
    "api": api_page,
}
"""texts that stand in for a line `<!-- generated: NAME -->`, or `… NAME: WORD, WORD -->`"""


IN_CLONE = "*The site that `launch/docs.sh` builds"
"""start of a line that says where generated text is to be found, and is left out of the site"""
NAMED_FILE = re.compile(r"\[(\w+\.(?:md|ipynb))\]\(\1(#[\w.-]+)?\)")
"""links whose text is their file's name, which the site replaces by the title"""
FILE_ABOVE = re.compile(r"\]\(\.\./(BENCHMARKS|CHANGELOG|CONTRIBUTING)\.md")
"""links to files above docs/, which the site has as pages"""


def _titled(found: re.Match[str]) -> str:
    """A link that shows the title of the page or section."""
    return f"[]({found[1]}{found[2] or ''})"


def generate(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill in the generated parts and drawings of a page; a notebook becomes one."""
    if Path(app.env.doc2path(page)).suffix == ".ipynb":
        source[0] = notebook_page(source[0])
        return
    lines = []
    for line in source[0].split("\n"):
        if line.startswith(IN_CLONE):
            continue
        if line.startswith("<!-- generated: "):
            name, _, words = (
                line.removeprefix("<!-- generated: ").removesuffix(" -->").partition(":")
            )
            line = GENERATED[name](*words.replace(",", " ").split())
        lines.append(line)
    text = FILE_ABOVE.sub(r"](\1.md", with_drawings("\n".join(lines)))
    source[0] = NAMED_FILE.sub(_titled, text)


def convert_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Docstrings are plain text with fenced code; autodoc reads reStructuredText."""
    lines[:] = as_restructured_text(lines)


def setup(app: Sphinx) -> None:
    """Connect both."""
    app.connect("source-read", generate)
    app.connect("autodoc-process-docstring", convert_docstring, priority=100)
