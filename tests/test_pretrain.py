"""Real runs of the real command."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.config.sections import Config, TrainConfig
from mae.pretrain import main
from mae.training.plan import make_plan
from tests.runs import (
    command,
    environment,
    exit_status,
    final_weights,
    launch,
    launch_and_kill,
    metrics_of,
    on_two_processes,
    same_weights,
    write_config,
)
from tests.waiting import wait_for

IMAGES = 52  # no multiple of the batch: steps straddle epochs
STEPS = 26

GOLDEN_LOSSES = [1.545787, 1.380243, 1.182855, 1.152326, 0.997743, 1.141659]
"""every fifth loss of the tiny run; changes only where the method, order or masks change"""


def losses(run):
    return [row["loss"] for row in metrics_of(run)]


def test_golden_loss_curve(reference_run):
    run, _ = reference_run
    assert losses(run)[:: STEPS // 5] == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_a_run_leaves_what_it_should(reference_run):
    run, printed = reference_run
    rows = metrics_of(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["samples"] == 8 * STEPS
    assert rows[-1]["epoch"] == pytest.approx(4)
    assert rows[0]["lr"] == 0 and rows[7]["lr"] == pytest.approx(2e-3, rel=0.02)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-000000024", "step-000000026"}
    assert [p.name for p in sorted((run / "panels").iterdir())] == [
        "step-000000010.png",
        "step-000000020.png",
        "step-000000026.png",
    ]
    recorded = ["log.panel_every=10", "log.health_every=0.8"]  # a fifth of four epochs
    assert load_config(run / "config.yaml") == load_config(run.parent / "tiny.yaml", recorded)
    assert "8 = 1 process x 1 accumulated x 8 images" in printed
    assert "step 26/26" in printed


def test_accumulation_gives_the_same_curve(reference_run, shards, tmp_path):
    assert main([str(write_config(tmp_path, shards)), "train.max_device_batch=3"]) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(reference_run[0]), rel=1e-5)


@pytest.mark.parametrize(
    "after_step", [*(pytest.param(step, marks=pytest.mark.fault) for step in (2, 7)), 17]
)
def test_killed_and_rerun_ends_in_the_same_bits(reference_run, shards, tmp_path, after_step):
    """Kill −9 in mid-epoch: before the first checkpoint, after the first, after the fourth."""
    config = write_config(tmp_path, shards)
    launch_and_kill(config, after_step=after_step)
    killed = metrics_of(tmp_path / "run")
    assert len(killed) < STEPS
    done = launch(config)
    assert done.returncode == 0, done.stderr
    assert ("resumed at step" in done.stdout) == (after_step > 4)
    expected = final_weights(reference_run[0])
    found = final_weights(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert losses(tmp_path / "run") == losses(reference_run[0])
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_two_processes_give_the_curve_of_one(reference_run, reference_run_by_two):
    """And two there are: the plan says so, and train.num_processes insists."""
    run, printed = reference_run_by_two
    assert "8 = 2 processes x 1 accumulated x 4 images" in printed
    assert losses(run) == pytest.approx(losses(reference_run[0]), rel=1e-5)


@pytest.mark.fault
def test_two_processes_killed_and_continued_by_one(reference_run, shards, tmp_path):
    """The same curve up to rounding."""
    config = write_config(tmp_path, shards)
    launch_and_kill(config, "data.workers=1", after_step=10, processes=2)
    done = launch(config, "data.workers=1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"resumed at step \d+\n", done.stdout), done.stdout
    assert losses(tmp_path / "run") == pytest.approx(losses(reference_run[0]), rel=1e-5)


def test_two_processes_killed_stopped_and_continued(reference_run_by_two, shards, tmp_path):
    """A kill of one ends all with its cause and code 1, a signal with a checkpoint and 75.

    accelerate's launcher goes on from there, to the same bits.
    """
    config, run = write_config(tmp_path, shards), tmp_path / "run"
    words = on_two_processes("pretrain", str(config), "data.workers=1")

    def disturbed(after_step: int, disturb: Callable[[psutil.Process], None]) -> tuple[int, str]:
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
        )
        try:
            metrics = run / "metrics.jsonl"
            wait_for(lambda: metrics.exists() and f'"step": {after_step},' in metrics.read_text())
            disturb(psutil.Process(process.pid))
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        return process.returncode, stderr

    code, stderr = disturbed(6, lambda launcher: launcher.children()[1].kill())
    assert (code, exit_status(run)["code"]) == (1, 1)
    assert stderr.splitlines()[-2:] == [
        "mae: another process of the run has ended",
        "mae: process 1 of 2 was killed by SIGKILL, perhaps out of memory; the same command "
        "continues",
    ]
    code, stderr = disturbed(12, psutil.Process.terminate)
    assert (code, exit_status(run)["code"]) == (75, 75)
    assert [line.split(" after ")[0] for line in stderr.splitlines()] == [
        "mae: SIGTERM: finishing this step, then saving; again to leave now",
        "mae: stopped by SIGTERM",
    ]
    done = launch(config, "data.workers=1", processes=2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"resumed at step \d+\n", done.stdout), done.stdout
    assert same_weights(final_weights(run), final_weights(reference_run_by_two.folder))


def test_the_launchers_silent_single_process_is_noticed(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    assert main([str(config), "train.num_processes=2"]) == 2
    assert "train.num_processes asks for 2 processes, but 1 work" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_left_as_it_is(reference_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(reference_run[0], run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    config = run.parent / "tiny.yaml"
    shutil.copy(reference_run[0].parent / "tiny.yaml", config)
    assert main([str(config), f"output={run}", "log.panel_every=10"]) == 0
    assert "resumed at step 26" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert len(metrics_of(run)) == STEPS


def refused(config, *settings, capsys) -> str:
    """The one line that a wrong command ends in."""
    assert main([str(config), *settings]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("mae: ")
    return lines[0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "model.mask_raito=0.5",
            "command line: model.mask_raito: unknown key, did you mean mask_ratio",
        ),
        ("model.mask_ratio=1.5", "command line: model.mask_ratio: 1.5 should be less than 1"),
        ("model.mask_ratio=0.99", "model.mask_ratio: 0.99 leaves 0 of 16 patches visible"),
        ("model.img_size=18", "data.img_size: 18 x 18 does not divide into patches of 4 x 4"),
        ("train.batch_size=53", "train.batch_size: 53 images a step, but data.train has only 52"),
        ("data.train=nowhere/*.tar", "data.train: no such shard: nowhere/*.tar"),
        ("data.train=[]", "data.train: no shards given"),
        ("model.encoder=vit_tny", "model.encoder: timm has no model 'vit_tny'"),
        ("data.val=nowhere.tar", "data.val: no such shard: nowhere.tar"),
    ],
)
def test_wrong_settings_end_in_one_line_before_anything_is_written(
    setting, message, shards, tmp_path, capsys
):
    assert message in refused(write_config(tmp_path, shards), setting, capsys=capsys)
    assert not (tmp_path / "run").exists()


def test_a_foreign_folder_is_refused_and_kept(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in refused(config, capsys=capsys)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_another_runs_folder_is_refused_with_the_keys_that_differ(reference_run, capsys):
    run, _ = reference_run
    before = (run / "config.yaml").read_text()
    assert main([str(run.parent / "tiny.yaml"), "optim.lr=1", "train.seed=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "holds a run with other settings; nothing was changed" in lines[0]
    assert lines[1:] == ["mae:   optim.lr: 0.002 → 1.0", "mae:   train.seed: 0 → 1"]
    assert (run / "config.yaml").read_text() == before


def test_an_unwritable_place_is_refused(shards, tmp_path, capsys, monkeypatch):
    config = write_config(tmp_path, shards)
    monkeypatch.setattr(
        "mae.training.checkpoint.run.os.access", lambda path, mode: False
    )  # root may all
    assert "is not writable" in refused(config, capsys=capsys)
    (tmp_path / "file").touch()
    assert "is a file" in refused(config, f"output={tmp_path}/file", capsys=capsys)


def test_other_data_under_the_same_names_is_refused(reference_run, make_shards, tmp_path, capsys):
    shards = make_shards(tmp_path / "shards", IMAGES, shard_size=20, size=(20, 24))
    config = write_config(tmp_path, shards)
    assert main([str(config), "train.epochs=2"]) == 0
    shutil.rmtree(tmp_path / "shards")
    make_shards(tmp_path / "shards", IMAGES, shard_size=20, size=(20, 28))
    capsys.readouterr()
    message = refused(config, "train.epochs=2", capsys=capsys)
    assert "data.train: not the samples that" in message


def test_a_run_continues_where_its_shards_were_renamed(reference_run, shards, tmp_path, capsys):
    folder = Path(shutil.copytree(Path(shards).parent, tmp_path / "shards"))
    for shard in folder.glob("*.tar"):
        shard.rename(shard.with_name(f"set-b-{shard.name[6:]}"))
    shutil.copytree(reference_run.folder, tmp_path / "run")
    *_, older, newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    shutil.rmtree(newest)
    capsys.readouterr()
    assert main([str(write_config(tmp_path, f"{folder}/*.tar"))]) == 0
    assert f"resumed at step {int(older.name[5:])}\n" in capsys.readouterr().out
    expected, found = final_weights(reference_run[0]), final_weights(tmp_path / "run")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(reference_run, shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    launch_and_kill(config, after_step=13)
    # A third, where the kill came between a write and the tidying up.
    *_, older, newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*[0-9]"))
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    done = launch(config)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors is damaged" in done.stdout
    assert f"resumed at step {int(older.name[5:])}\n" in done.stdout
    expected, found = final_weights(reference_run[0]), final_weights(tmp_path / "run")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_gone_wrong_stops_and_pushes_no_good_checkpoint_out(shards, tmp_path):
    config = write_config(tmp_path, shards)
    settings = ("train.epochs=2", "optim.warmup_epochs=0.5")
    assert launch(config, *settings).returncode == 0
    good = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    # Longer: and from here on the loss is NaN.
    with (tmp_path / "poison.py").open("w") as file:
        file.write(
            "import sys, mae.pretrain, mae.training.step\n"
            "whole = mae.training.step.forward\n"
            "def forward(*a):\n"
            "    output = whole(*a)\n"
            "    losses = {key: loss * float('nan') for key, loss in output.losses.items()}\n"
            "    return output._replace(losses=losses)\n"
            "mae.training.step.forward = forward\n"
            "sys.exit(mae.pretrain.main(sys.argv[1:]))\n"
        )
    poisoned = [sys.executable, str(tmp_path / "poison.py"), str(config), "train.epochs=9"]
    done = subprocess.run(
        [*poisoned, "optim.warmup_epochs=0.5"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "mae: step 33: the last 20 steps were skipped" in done.stderr
    left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert left == {max(good), "step-000000033"}


def test_plan_divides_the_global_batch():
    config = Config(train=TrainConfig(batch_size=4096, max_device_batch=200))
    plan = make_plan(config, num_samples=1_281_167, num_processes=8, process_index=3)
    assert plan.sharding.device_batch == 128
    assert plan.sharding.accumulation == 4
    assert plan.lr == pytest.approx(2.4e-3)  # 1.5e-4 x 4096 / 256
    assert plan.steps == 250_228  # 800 epochs, none of the last one's images left out


def test_a_batch_that_does_not_divide_names_the_counts_that_do():
    config = Config(train=TrainConfig(batch_size=96))
    with pytest.raises(
        UserError, match=r"among 5 processes; it does among 1, 2, 3, 4, 6, 8, 12, 16"
    ):
        make_plan(config, 1000, 5, 0)


def test_a_full_disk_fails_in_one_line_and_keeps_what_was_saved(shards, tmp_path):
    """A limit on the size of files is what a full disk is to the writer of a checkpoint."""
    config = write_config(tmp_path, shards)
    assert main([str(config), "train.epochs=2"]) == 0
    weights = next((tmp_path / "run").rglob("model.safetensors")).stat().st_size
    shutil.rmtree(tmp_path / "run")
    limited = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import mae.pretrain, mae.training.checkpoint.saver
written = mae.training.checkpoint.saver.write_checkpoint
def write(part, tensors, position):
    if position.step > 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({weights} // 2, resource.RLIM_INFINITY))
    return written(part, tensors, position)
mae.training.checkpoint.saver.write_checkpoint = write
sys.exit(mae.pretrain.main([{str(config)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("mae: step 12: ") and "takes no checkpoint: " in line
    assert main([str(config)]) == 0
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == list(range(1, STEPS + 1))


def test_a_run_folder_in_use_is_refused(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    other = subprocess.Popen(
        [*command(config), "train.epochs=4000"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert any("step" in line for line in other.stdout)
        message = refused(config, "train.epochs=4000", capsys=capsys)
        assert f"output: {tmp_path}/run is in use by another process" in message
    finally:
        other.kill()
        other.communicate()


def test_under_the_launcher_a_mistake_is_explained_exactly_once(shards, tmp_path):
    done = launch(write_config(tmp_path, shards), "train.batch_size=53", processes=2)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("mae: ")]
    said = (
        "53 images a step, but data.train has only 52: try train.batch_size=4, or mae pretrain auto"
    )
    assert ours == [f"mae: train.batch_size: {said}, which chooses all settings for these images"]


def test_a_moved_data_set_is_the_same_data_set(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    assert main([str(config), "train.epochs=2"]) == 0
    shutil.copytree(Path(shards).parent, tmp_path / "elsewhere")
    moved = f"data.train={tmp_path}/elsewhere/*.tar"
    assert main([str(config), "train.epochs=2", moved]) == 0
    assert "resumed at step 13" in capsys.readouterr().out


def test_bf16_and_a_compiled_step_train_to_nearly_the_same(reference_run, shards, tmp_path):
    """A subprocess is used, as the shape checks of the test session cannot be compiled."""
    config = write_config(tmp_path, shards)
    program = f"""
import torch
compiled = torch.nn.Module.compile
torch.nn.Module.compile = lambda self, mode, **o: compiled(self, backend="aot_eager", **o)
import mae.pretrain, sys
sys.exit(mae.pretrain.main([{str(config)!r}, "train.precision=bf16", "train.compile=true"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "on cpu, bf16" in done.stdout
    assert losses(tmp_path / "run") == pytest.approx(losses(reference_run[0]), rel=0.02)


def test_a_start_that_was_killed_before_its_settings_were_written_is_no_foreign_folder(
    shards, tmp_path
):
    config = write_config(tmp_path, shards)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.tmp").write_text("half a fi")
    assert main([str(config), "train.epochs=2"]) == 0
