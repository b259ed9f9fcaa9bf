"""The files of a run folder; its settings are in test_settings, its trackers in test_tracking."""

import json
import math
import shutil

import pytest

from mae.base.errors import RunFailed
from mae.config.sections import Config
from mae.training.checkpoint.checkpoint_files import (
    TrainingState,
    newest_checkpoint,
    reserve,
    write_checkpoint,
)
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.snapshot import CheckpointTensors


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


def test_an_old_folder_gets_an_id_and_keeps_it(tmp_path):
    config = Config(output=str(tmp_path / "run"))
    run = Run(config.output)
    run.open(config)
    (run.folder / "run-id").unlink()  # as earlier versions made it
    again = Run(config.output)
    again.id = again._read_or_make_id()
    assert len(again.id) == 16 and again.id == again._read_or_make_id()
    assert again.is_own() and not run.is_own()


def test_a_folder_made_anew_is_left_alone_by_the_process_of_before(tmp_path):
    config = Config(output=str(tmp_path / "run"))
    old, new = Run(config.output), Run(config.output)
    old.open(config)
    old.write_metrics({"step": 1})
    shutil.rmtree(old.folder)
    with pytest.raises(RunFailed, match="no longer the folder of this run"):
        old.write_metrics({"step": 2})
    new.open(config)
    state = TrainingState(1, 8, "f", run=old.id)
    with pytest.raises(RunFailed, match="no longer the folder of this run"):
        reserve(new.checkpoints, state, 0)
    assert not new.metrics_file.exists() and not list(new.checkpoints.iterdir())


def test_checkpoints_of_another_run_are_passed_over_and_those_without_an_id_are_not(tmp_path):
    config = Config(output=str(tmp_path / "run"))
    run = Run(config.output)
    run.open(config)
    for step, owner in ((1, ""), (2, run.id), (3, "another")):
        state = TrainingState(step, 8 * step, "f", run=owner)
        (run.folder / "run-id").write_text(owner or run.id)
        write_checkpoint(reserve(run.checkpoints, state, 0), CheckpointTensors({}, {}), state)
    found = newest_checkpoint(run.checkpoints, run=run.id)
    assert found is not None and found.state.step == 2
    (reason,) = found.damaged.values()
    assert "is of another run" in reason
    found = newest_checkpoint(run.checkpoints, before=2, run=run.id)
    assert found is not None and found.state.step == 1
