import json

import pytest

import mae
from mae.api.run import Run
from tests.report.folders import write_results, write_run


def test_numbers_of_a_run(tmp_path):
    folder = write_run(tmp_path / "run")
    write_results(folder)
    run = Run(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics() == rows and run.step == rows[-1]["step"]
    assert run.figures["loss"] == rows[-1]["loss"]
    health = (folder / "health.jsonl").read_text().splitlines()
    assert run.figures["held_out"] == json.loads(health[-1])
    assert run.figures["probe"] == json.loads((folder / "probe.json").read_text())
    assert run.config.train.epochs > 0
    assert f"loss {rows[-1]['loss']:.4g}" in repr(run) and str(folder) in repr(run)


def test_a_run_without_rows(tmp_path):
    (tmp_path / "config.yaml").write_text("output: x\n")
    run = Run(tmp_path)
    assert (run.state, run.step, run.finished, run.metrics(), run.figures) == (
        *("not started", 0, False, []),
        {},
    )
    assert repr(run) == f"Run({tmp_path}: not started, step 0)"
    with pytest.raises(mae.UserError, match=r"no checkpoint yet"):
        run.load()


def test_a_run_is_found_by_its_checkpoint(reference_run):
    checkpoint = next((reference_run.folder / "checkpoints").glob("step-*"))
    assert Run(checkpoint).path == reference_run.folder
    assert Run(str(reference_run.folder)).finished


def test_no_run_here(tmp_path):
    with pytest.raises(mae.UserError, match=r"no run here"):
        Run(tmp_path / "nosuch")


def test_report_and_export(reference_run, tmp_path, in_process, capsys):
    run = Run(reference_run.folder)
    page = run.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!")
    folder = run.export(tmp_path / "export", format="timm", pool="avg")
    assert (folder / "model.safetensors").exists() and "timm" in capsys.readouterr().out
    with pytest.raises(mae.UserError, match=r"nosuch: not a format of objective mae"):
        run.export(tmp_path / "other", format="nosuch")
    with pytest.raises(mae.UserError, match=r"pool: 'max'"):
        run.export(tmp_path / "other", pool="max")
