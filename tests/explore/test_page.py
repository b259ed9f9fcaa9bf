import base64
import hashlib
import json
import re

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.explore.content import Options, read_content
from mae.explore.page import ASSETS, SCRIPTS, program, write_page
from mae.explore.table import read_table
from tests.explore.tables import columns, write

ODD = ['</script><script>document.title="x"</script>', "<!--<script>", "a&b\"'", "{{script}}"]


@pytest.fixture
def page(tmp_path):
    """Page of a table with odd keys, and its content."""
    given = columns(40)
    given["key"][:4] = ODD
    given["class"][0] = ODD[0]
    table = read_table(write(tmp_path / "a.parquet", given))
    content = read_content(table, Options(title="<b>&</b>"))
    write_page(content, tmp_path / "map.html")
    return (tmp_path / "map.html").read_text(), content


def test_texts_of_the_table_end_no_element(page):
    text, content = page
    blocks = re.findall(r"<script[^>]*>(.*?)</script>", text, re.S)
    assert text.count("<script") == text.count("</script") == len(blocks)
    about = json.loads(blocks[0])
    assert about == json.loads(json.dumps(content.about)) and about["keys"][:4] == ODD
    assert "<title>&lt;b&gt;&amp;&lt;/b&gt; – mae explore</title>" in text
    assert "<!--" not in text


def test_only_the_own_script_may_run_and_nothing_is_loaded(page):
    text, _ = page
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert script == program()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src &#x27;none&#x27;;")
    assert f"script-src &#x27;sha256-{digest}&#x27;" in policy
    assert not re.search(r"https?://|//[a-z]+\.|\bsrc=|<link|@import|url\(", text)


def test_arrays_are_those_of_the_content(page):
    text, content = page
    found = re.findall(r'class="array" id="array-([\w-]+)" data-type="(\w+)">([^<]*)<', text)
    assert [name for name, _, _ in found] == list(content.arrays)
    for name, type_, data in found:
        values = np.frombuffer(base64.b64decode(data), type_)
        assert values.tobytes() == content.arrays[name].tobytes()


def test_the_same_table_gives_the_same_page(tmp_path, page):
    table = read_table(tmp_path / "a.parquet")
    write_page(read_content(table, Options(title="<b>&</b>")), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page[0]


def test_every_script_is_part_of_the_program():
    files = {one.name for one in ASSETS.iterdir()}
    assert files == {*SCRIPTS, "page.html", "page.css"}
    assert "</script" not in program()


def test_a_page_is_whole_or_not_there(tmp_path):
    table = read_table(write(tmp_path / "a.parquet", columns(40)))
    content = read_content(table)

    def broken():
        yield b"sheet"
        raise OSError(28, "No space left on device")

    out = tmp_path / "map.html"
    out.write_text("before")
    with pytest.raises(UserError, match=r"map.html: cannot be written: No space left on device"):
        write_page(content._replace(sheets=broken()), out)
    assert out.read_text() == "before"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.parquet", "map.html"]
