"""Exit status files and event logs."""

import json

from mae.base.exit_status import (
    STATUS_VARIABLE,
    ExitStatus,
    append_event,
    clear_exit_status,
    read_exit_status,
    write_exit_status,
)


def test_exit_status_is_written_to_run_folder_and_supervisor_file(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "private"))
    status = ExitStatus(75, 120, "SIGTERM")
    write_exit_status(run, status)
    assert read_exit_status(run / "exit-status") == status
    assert read_exit_status(tmp_path / "private") == status
    assert json.loads((run / "exit-status").read_text()) == {
        "code": 75,
        "step": 120,
        "reason": "SIGTERM",
    }
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "private", "exit-status"}


def test_exit_status_without_own_run_folder_goes_to_supervisor_file_only(tmp_path, monkeypatch):
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "private"))
    write_exit_status(None, ExitStatus(2, None, "output: is not empty"))
    assert [path.name for path in tmp_path.iterdir()] == ["private"]


def test_unwritable_exit_status_raises_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(STATUS_VARIABLE, raising=False)
    write_exit_status(tmp_path / "gone", ExitStatus(1, 3, "disk full"))


def test_absent_or_damaged_exit_status_is_none(tmp_path):
    path = tmp_path / "exit-status"
    assert read_exit_status(path) is None
    for text in ("", "75", "[]", '{"code": 75', '{"code": null, "step": 1, "reason": ""}'):
        path.write_text(text)
        assert read_exit_status(path) is None


def test_exit_status_is_cleared_in_run_folders_only(tmp_path):
    file = tmp_path / "exit-status"
    file.touch()
    clear_exit_status(tmp_path)
    assert file.exists()
    (tmp_path / "config.yaml").touch()
    clear_exit_status(tmp_path)
    clear_exit_status(tmp_path)
    assert not file.exists()


def test_events_need_a_run_folder_and_follow_a_truncated_line(tmp_path):
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
