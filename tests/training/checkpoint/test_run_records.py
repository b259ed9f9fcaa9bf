"""Damaged record files of a run: it resumes, and says what was set aside."""

import os
import shutil

import pytest

from mae.cli import main
from mae.report.page import write_report
from mae.training.checkpoint.run import RECORD_FILES, RECORD_FOLDERS, ROW_FILES
from tests.runs import final_weights, metrics_of, same_weights


@pytest.fixture
def cut_short(reference_run, tmp_path):
    """The config of a run without its last checkpoint, and its folder."""
    run = tmp_path / "run"
    shutil.copytree(reference_run.folder, run)
    shutil.rmtree(max((run / "checkpoints").glob("step-*")))
    (run / "wandb-id").write_text("abc")
    return str(reference_run.folder.parent / "tiny.yaml"), run


def bad_byte(path):
    rows = path.read_bytes() if path.exists() else b'{"step": 1}\n'
    path.write_bytes(b'{"step": 0, "loss": "\xff"}\n' + rows)


def a_folder(path):
    path.unlink(missing_ok=True)
    (path / "inner").mkdir(parents=True)


def a_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [bad_byte, a_folder, a_pipe])
def test_no_record_file_stops_a_run(cut_short, reference_run, damage, capsys):
    config, run = cut_short
    names = ROW_FILES if damage is bad_byte else (*ROW_FILES, *RECORD_FILES)
    for name in names:
        damage(run / name)
    if damage is a_folder:
        for name in RECORD_FOLDERS:
            shutil.rmtree(run / name, ignore_errors=True)
            (run / name).touch()
        names = (*names, *RECORD_FOLDERS)
    assert main(["pretrain", config, f"output={run}"]) == 0
    printed = capsys.readouterr().out
    for name in names:
        assert f"{name}: " in printed and f"kept as {name}.damaged" in printed
    assert same_weights(final_weights(run), final_weights(reference_run.folder))
    rows = [row["step"] for row in metrics_of(run)]
    assert rows == list(range(1 if damage is bad_byte else 25, 27))
    write_report(run, run / "report.html")


def test_a_report_is_made_of_what_is_left(cut_short, tmp_path):
    _, run = cut_short
    for name in ROW_FILES:
        a_folder(run / name)
    (run / "knn.json").write_bytes(b"\xff")
    a_folder(run / "probe.json")
    a_pipe(run / "exit-status")
    (run / "panels" / "step-000000099.png").mkdir()
    assert "knn.json: not readable" in write_report(run, tmp_path / "report.html").read_text()
