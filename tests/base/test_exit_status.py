"""What runs leave behind when they end."""

import json
import math

import numpy as np
import pytest

from mae.base.exit_status import (
    STATUS_VARIABLE,
    ExitStatus,
    append_event,
    append_row,
    forget_exit,
    read_exit,
    record_exit,
)


def test_a_word_is_left_in_the_run_and_for_the_supervisor(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "private"))
    word = ExitStatus(75, 120, "SIGTERM")
    record_exit(run, word)
    assert read_exit(run / "exit-status") == read_exit(tmp_path / "private") == word
    assert json.loads((run / "exit-status").read_text()) == {
        "code": 75,
        "step": 120,
        "reason": "SIGTERM",
    }
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "private", "exit-status"}


def test_a_word_on_a_folder_that_is_not_the_runs_own_is_for_the_supervisor_only(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "private"))
    record_exit(None, ExitStatus(2, None, "output: is not empty"))
    assert [path.name for path in tmp_path.iterdir()] == ["private"]


def test_a_word_that_cannot_be_written_hides_no_error(tmp_path, monkeypatch):
    monkeypatch.delenv(STATUS_VARIABLE, raising=False)
    record_exit(tmp_path / "gone", ExitStatus(1, 3, "disk full"))


def test_what_is_no_word_is_none(tmp_path):
    path = tmp_path / "exit-status"
    assert read_exit(path) is None
    for text in ("", "75", "[]", '{"code": 75', '{"code": null, "step": 1, "reason": ""}'):
        path.write_text(text)
        assert read_exit(path) is None


def test_only_a_runs_own_word_is_forgotten(tmp_path):
    word = tmp_path / "exit-status"
    word.touch()
    forget_exit(tmp_path)
    assert word.exists()
    (tmp_path / "config.yaml").touch()
    forget_exit(tmp_path)
    forget_exit(tmp_path)
    assert not word.exists()


def test_a_row_goes_below_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"step": 1})
    path.write_text(path.read_text() + '{"step": 2, "lo')
    append_row(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n'


def test_a_number_that_is_not_finite_is_null(tmp_path):
    """Standard JSON has no NaN, and strict readers refuse the whole line."""
    path = tmp_path / "rows.jsonl"
    poison = [math.nan, math.inf, -math.inf, np.float64("nan"), 1.5]
    append_row(path, {"loss": math.nan, "deep": {"all": poison}, "two": (math.inf, 2), "n": None})

    def refuse(word):
        raise AssertionError(word)

    row = json.loads(path.read_text(), parse_constant=refuse)
    expected = {"all": [None, None, None, None, 1.5]}
    assert row == {"loss": None, "deep": expected, "two": [None, 2], "n": None}


def test_a_row_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="gone"):
        append_row(tmp_path / "gone" / "rows.jsonl", {"step": 1})


def test_events_are_appended_below_a_line_that_was_cut_off(tmp_path):
    events = tmp_path / "events.jsonl"
    append_event(tmp_path, 1, "relaunch", "no run here yet")
    assert not events.exists()
    (tmp_path / "config.yaml").touch()
    append_event(tmp_path, None, "relaunch", "killed by SIGKILL")
    events.write_text(events.read_text() + '{"time": "2026-')
    append_event(tmp_path, 8, "relaunch", "killed by SIGKILL")
    first, cut_off, last = events.read_text().splitlines()
    assert cut_off == '{"time": "2026-'
    assert json.loads(first)["step"] is None
    row = json.loads(last)
    assert row.pop("time").endswith("+00:00")
    assert row == {"step": 8, "event": "relaunch", "reason": "killed by SIGKILL"}
