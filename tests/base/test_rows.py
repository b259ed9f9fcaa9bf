"""JSON Lines files of a run."""

import json
import math
import os

import numpy as np
import pytest

from mae.base.rows import append_row, read_rows, repair_rows


def test_row_is_appended_after_a_truncated_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"step": 1})
    path.write_text(path.read_text() + '{"step": 2, "lo')
    append_row(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n'


def test_non_finite_numbers_become_null(tmp_path):
    """Standard JSON has no NaN: strict readers reject the whole line."""
    path = tmp_path / "rows.jsonl"
    values = [math.nan, math.inf, -math.inf, np.float64("nan"), 1.5]
    append_row(path, {"loss": math.nan, "deep": {"all": values}, "two": (math.inf, 2), "n": None})

    def refuse(constant):
        raise AssertionError(constant)

    row = json.loads(path.read_text(), parse_constant=refuse)
    expected = {"all": [None, None, None, None, 1.5]}
    assert row == {"loss": None, "deep": expected, "two": [None, 2], "n": None}


def test_unwritable_row_raises_os_error(tmp_path):
    with pytest.raises(OSError, match="gone"):
        append_row(tmp_path / "gone" / "rows.jsonl", {"step": 1})


def test_only_whole_rows_are_read_and_only_damage_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_rows(path).rows == []
    path.write_bytes(b'{"a": 1}\n{"a": 2, "b\n{"a": "\xff"}\n[3]\n\n{"a": 4}\n{"a": 5}')
    found = read_rows(path)
    assert [row["a"] for row in found.rows] == [1, 4, 5]
    assert found.lines[0] == b'{"a": 1}' and found.damaged == 2


def test_repair_keeps_whole_rows_and_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(whole := b'{"a": 1}\n{"a": 2, "b\n{"a": 3}\n')
    assert repair_rows(path) is None and path.read_bytes() == whole
    for number in ("", "-2"):
        path.write_bytes(damaged := b'{"a": 1}\n\0\0\0\n{"a": 2}\n')
        kept = f"rows.jsonl.damaged{number}"
        assert repair_rows(path) == f"rows.jsonl: 1 damaged line skipped; kept as {kept}"
        assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
        assert (tmp_path / kept).read_bytes() == damaged


@pytest.mark.parametrize(("make", "reason"), [(os.mkdir, "is a folder"), (os.mkfifo, "is no file")])
def test_what_is_no_file_is_set_aside(tmp_path, make, reason):
    path = tmp_path / "rows.jsonl"
    make(path)
    assert repair_rows(path) == f"rows.jsonl: {reason}; kept as rows.jsonl.damaged"
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl.damaged"]
