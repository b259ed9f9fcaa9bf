"""Comparison of encoders: its minutes."""

import pytest

from benchmarks import encoders
from mae.base.files import read_json
from mae.base.rows import append_row


def test_minutes_are_those_of_all_starts_that_trained(tmp_path, monkeypatch):
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(encoders.time, "monotonic", lambda: next(clock))
    file, run = tmp_path / "plain-0.json", tmp_path / "run"
    run.mkdir()
    with pytest.raises(SystemExit), encoders.timed(file, run):
        append_row(run / "metrics.jsonl", {"step": 1})
        raise SystemExit(75)
    assert read_json(file) == {"minutes": 1}
    with encoders.timed(file, run, tmp_path / "none") as spent:
        append_row(run / "metrics.jsonl", {"step": 2})
    assert spent == read_json(file) == {"minutes": 2}
    with encoders.timed(file, run) as spent:  # which is finished
        pass
    assert spent == {"minutes": 2}
