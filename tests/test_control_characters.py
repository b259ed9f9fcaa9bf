"""Names from data reach the terminal, the page and the record on one line, without commands."""

import shutil
import unicodedata
from pathlib import Path

import pytest

from mae.cli import main
from tests.explore.tables import write

NAMES = (
    "a\rmae: all good",
    "b\x1b[2J\x1b]0;title\x07",
    "c\nmae: all good",
    "d\u202egnp",
    "e\x9b31m",
    "f\u2028mae: all good",
    "/g\tmae",
)


def assert_plain(printed: str) -> None:
    """All control characters are escaped, and no line is forged."""
    lines = printed.split("\n")
    active = {one for one in "".join(lines) if unicodedata.category(one) in ("Cc", "Cf", "Zl")}
    assert active <= {"\t"}, printed
    assert not [line for line in lines if line.startswith("mae: all good")]


@pytest.fixture
def bad_tar(tmp_path, make_tar):
    """A shard whose images have such names, and are none."""
    return make_tar(tmp_path / "bad.tar", [(f"{name.strip('/')}.png", b"none") for name in NAMES])


@pytest.mark.parametrize(
    "line",
    [
        "verify {bad} --workers 0",
        "index {bad}",
        "features {run} {bad} --out {out}/f.safetensors",
        "reconstruct {run} {bad}",
        "knn {run} --train {bad} --test {bad}",
        "pack {folder} {out}/packed --workers 0",
        "pack {bad} {out}/packed --workers 0",
        "export {run} {out}/export --images {odd}",
        "pretrain {odd}",
        "index {odd}",
        "report {odd}",
    ],
)
def test_no_name_moves_the_cursor_or_forges_a_line(line, bad_tar, tmp_path, reference_run, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name.strip('/')}.png").write_bytes(b"none")
    names = {
        "bad": bad_tar,
        "run": reference_run.folder,
        "folder": folder,
        "out": tmp_path,
        "odd": f"{tmp_path}/{NAMES[0]}{NAMES[1]}",
    }
    main([word.format(**names) for word in line.split()])
    printed = capsys.readouterr()
    assert "\\r" in printed.out + printed.err or line == "index {bad}"
    assert_plain(printed.out)
    assert_plain(printed.err)


def test_the_page_of_a_run_shows_them_escaped(tmp_path, reference_run):
    run = tmp_path / "run"
    shutil.copytree(reference_run.folder, run)
    (run / "quarantine.jsonl").write_text(
        '{"sample": 1, "shard": "a", "key": "k\\u001b[2J\\u202e<b>", "error": "e", "step": 1}\n'
    )
    assert main(["report", str(run)]) == 0
    page = Path(run, "report.html").read_text()
    assert "k\\x1b[2J\\u202e&lt;b&gt;" in page
    assert "\x1b" not in page and "\u202e" not in page


def test_the_map_of_a_table_shows_them_escaped(tmp_path, capsys):
    content = {
        "x": [0.0] * len(NAMES),
        "y": [0.0] * len(NAMES),
        "key": [*NAMES],
        "camera": [*NAMES],
        "image": [b"none"] * len(NAMES),
    }
    table = write(tmp_path / "table.parquet", content)
    assert main(["explore", str(table), "--title", NAMES[1]]) == 0
    printed = capsys.readouterr()
    assert "7 of 7 thumbnails cannot be shown" in printed.out
    assert "b\\\\x1b[2J" in table.with_suffix(".html").read_text()
    for text in (printed.out, printed.err, table.with_suffix(".html").read_text()):
        assert_plain(text)
