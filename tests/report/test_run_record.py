import json
import os
from typing import Any

import pytest

from mae.base.errors import UserError
from mae.report.run_record import cautions, changed_settings, read_record, state
from tests.report.folders import metric_rows, write_rows, write_run


def test_a_whole_run_is_read(tmp_path):
    record = read_record(write_run(tmp_path / "photos"))
    assert record.name == "photos" and not record.notes
    assert len(record.metrics) == 100 and len(record.health) == 5
    assert len(record.events) == 4 and len(record.quarantine) == 25 and len(record.starts) == 2
    assert [path.name for path in record.panels][:2] == ["step-000000100.png", "step-000000200.png"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        read_record(tmp_path)
    with pytest.raises(UserError, match="no run here"):
        read_record(tmp_path / "absent")


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "metrics.jsonl",
        "health.jsonl",
        "events.jsonl",
        "quarantine.jsonl",
        "starts.jsonl",
    ],
)
@pytest.mark.parametrize("damage", ["absent", "empty", "binary", "a folder"])
def test_any_file_may_be_absent_or_damaged(tmp_path, name, damage):
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    if damage == "empty":
        (run / name).touch()
    elif damage == "binary":
        (run / name).write_bytes(b"\xff\xfe\x00[{\n" * 3)
    elif damage == "a folder":
        (run / name).mkdir()
    record = read_record(run)
    assert len(record.panels) == 9
    assert len(record.events) == (0 if name == "events.jsonl" else 4)
    if damage in ("binary", "a folder"):
        assert len(record.notes) == 1 and record.notes[0].startswith(name)


def test_a_last_line_that_a_kill_cut_off_is_normal_and_others_are_reported(tmp_path):
    run = write_run(tmp_path / "run")
    write_rows(run / "metrics.jsonl", metric_rows(3), cut='{"step": 80, "lo')
    record = read_record(run)
    assert len(record.metrics) == 3 and not record.notes
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"st\n[7]\n{"step": 2}\n')
    record = read_record(run)
    assert [row["step"] for row in record.metrics] == [1, 2]
    assert record.notes == ["metrics.jsonl: 2 damaged lines skipped"]


def test_of_a_step_that_was_written_twice_the_later_row_counts(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [{"step": 1, "loss": 5}, {"step": 2, "loss": 4}, {"step": 1, "loss": 3}, {"loss": 9}]
    write_rows(run / "metrics.jsonl", rows)
    assert read_record(run).metrics == [{"step": 1, "loss": 3}, {"step": 2, "loss": 4}]


@pytest.mark.parametrize(
    ("count", "silent", "word"),
    [(100, 1e9, "finished"), (50, 60, "running"), (50, 3600, "stopped"), (0, 60, "not started")],
)
def test_how_far_a_run_is(tmp_path, count, silent, word):
    record = read_record(write_run(tmp_path / "run", count))
    found = state(record, (record.written or 0) + silent)
    assert found.word == word
    assert (found.step, found.steps) == ((20 * count, 2000) if count else (0, None))


@pytest.mark.parametrize("count", [0, 50, 100])
@pytest.mark.parametrize(
    ("code", "word"), [(0, "finished"), (75, "stopped"), (1, "failed"), (2, "failed")]
)
def test_what_a_run_said_of_its_end_decides(tmp_path, count, code, word):
    """Also where its rows are fresh, or where only the last checkpoint has failed."""
    run = write_run(tmp_path / "run", count)
    last = {"code": code, "step": 20 * count, "reason": "the disk is full"}
    (run / "exit-status").write_text(json.dumps(last))
    record = read_record(run)
    assert state(record, (record.written or 0) + 1).word == word


def test_a_damaged_exit_status_is_ignored(tmp_path):
    run = write_run(tmp_path / "run", 50)
    (run / "exit-status").write_text('{"code": 1')
    record = read_record(run)
    assert state(record, (record.written or 0) + 1).word == "running"


def test_rows_that_come_slowly_are_waited_for(tmp_path):
    run = write_run(tmp_path / "run", 2)
    slow = [row | {"images_per_second": 1.0} for row in metric_rows(2)]  # 5,120 seconds a row
    write_rows(run / "metrics.jsonl", slow)
    os.utime(run / "metrics.jsonl", (0, 0))
    assert state(read_record(run), 3600).word == "running"
    assert state(read_record(run), 100_000).word == "stopped"


def test_settings_that_differ_from_the_defaults(tmp_path):
    record = read_record(write_run(tmp_path / "run", batch_size=64, seed=0))
    assert changed_settings(record) == {
        "output": ("", "runs/x"),
        "train.epochs": (800.0, 200.0),
        "train.batch_size": (4096, 64),
    }


def test_settings_of_another_version_are_shown_as_they_are(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text("train: {epochs: 10, gone: {'1': x}}\nmystery: [1]\n")
    changed = changed_settings(read_record(run))
    assert changed == {
        "train.epochs": (800.0, 10),
        "train.gone.1": (None, "x"),
        "mystery": (None, [1]),
    }


@pytest.mark.parametrize("starts", [[], [{}], [{"cautions": "x"}], [{"cautions": [1, None]}]])
def test_starts_without_cautions_have_none(starts, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    record = read_record(tmp_path)._replace(starts=starts)
    assert cautions(record) == []


def test_cautions_are_those_of_the_last_start(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    told: list[Any] = [
        {"cautions": [{"text": "old", "reason": "x"}]},
        {"cautions": [{"text": "new"}]},
    ]
    ((level, text, reason),) = cautions(read_record(tmp_path)._replace(starts=told))
    assert (level, text, reason) == ("watch", "new", "None")
