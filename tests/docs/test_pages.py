"""Generated parts of the pages: Markdown of commands and notebooks, drawings, docstrings."""

import argparse
import json

import pytest

from docs.pages.api import as_restructured_text
from docs.pages.commands import command_entry
from docs.pages.drawing import with_drawings
from docs.pages.markdown import plain, table
from docs.pages.notebook import notebook_page


def test_characters_with_a_meaning_are_shown_as_they_are():
    assert plain("a_b* <c> [d] | e") == r"a\_b\* \<c\> \[d\] \| e"
    assert plain("as `x|y` and --out or data.val=a") == r"as `x\|y` and `--out` or `data.val=a`"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_entry_of_a_command_has_usage_arguments_defaults_and_subcommands():
    parser = argparse.ArgumentParser(
        description="Do it.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("run", help="a run")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="how many, 100%% of them")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    parser.add_subparsers().add_parser("part", description="Do a part.")
    text = command_entry(parser, "mae do", 2)
    assert text.startswith("## mae do\n\nDo it.\n\n```text\nmae do [-h] [--count N] run")
    assert "| `--count N` | how many, 100% of them (default: 3) |" in text
    assert "--secret" not in text
    assert "### mae do part\n\nDo a part." in text


def test_drawing_is_a_list_from_top_to_bottom():
    drawing = '```mermaid\nflowchart BT\n    a["low<br/>floor"]\n    b["high"]\n    a --> b\n```'
    assert with_drawings(f"x\n\n{drawing}\n\ny") == (
        'x\n\n<ol class="chain">\n<li>high</li>\n<li>low<br/>floor</li>\n</ol>\n\ny'
    )
    with pytest.raises(ValueError, match="not one chain"):
        with_drawings(drawing.replace("a --> b", "a --> b\n    b --> a"))


def test_notebook_has_its_text_code_and_output():
    stream = {"output_type": "stream", "text": ["\x1b[1mdone\x1b[0m\n", "```\n"]}
    picture = {"output_type": "display_data", "data": {"image/png": "aGk=", "text/plain": "<x>"}}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [stream, picture]},
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    text = notebook_page(json.dumps({"cells": cells}))
    assert text.startswith("# Title\nText.\n\n```python\n1 + 1\n```\n\n````text\ndone\n```\n````\n")
    assert 'src="data:image/png;base64,aGk="' in text
    assert "<x>" not in text and "\x1b" not in text


def test_fenced_code_of_a_docstring_becomes_a_code_block():
    lines = ["Type of `model:`.", "", "```python", "a = `1`", "", "b = 2", "```", "More."]
    assert as_restructured_text(lines) == [
        *(
            "Type of ``model:``.",
            "",
            "",
            ".. code-block:: python",
            "",
            "   a = `1`",
            "",
            "   b = 2",
        ),
        *("", "More."),
    ]
