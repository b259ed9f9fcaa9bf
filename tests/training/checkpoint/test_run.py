"""The files of a run folder; its settings are in test_settings, its trackers in test_tracking."""

import json
import math

import pytest

from mae.training.checkpoint.run import Run


@pytest.mark.parametrize("kind", ["metrics", "health", "start"])
def test_rows_are_json_below_what_a_kill_has_cut_off(tmp_path, kind):
    run = Run(tmp_path)
    file = tmp_path / f"{kind}s.jsonl" if kind == "start" else tmp_path / f"{kind}.jsonl"
    file.write_text('{"step": 1}\n{"step": 2, "ti')
    getattr(run, f"write_{kind}")({"step": 3, "loss": math.nan})
    first, cut_off, last = file.read_text().splitlines()
    assert (first, cut_off) == ('{"step": 1}', '{"step": 2, "ti')
    assert json.loads(last) == {"step": 3, "loss": None} and "NaN" not in last


def test_a_row_without_a_number_is_read_back(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.write_metrics({"step": step, "loss": math.inf, "skipped": step})
    run.rewind_metrics(2)
    assert run.last_metrics() == {"step": 2, "loss": None, "skipped": 2}
