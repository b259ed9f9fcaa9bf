"""Runs that are stopped, poisoned, or go wrong: what the loop does about it."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mae.cli import main as mae
from mae.data.indexing import build_manifest
from mae.data.order import Order
from mae.pretrain import main
from mae.training.safety.lifecycle import StopSignals
from tests.evaluation.test_features import spoil
from tests.runs import (
    command,
    environment,
    final_weights,
    launch,
    metrics_of,
    same_weights,
    write_config,
)
from tests.waiting import wait_for

STEPS = 26


@pytest.fixture(scope="module")
def undisturbed(reference_run):
    """Weights at the end of a run that nothing disturbed."""
    return final_weights(reference_run.folder)


def events(folder):
    return [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]


def exit_status(folder):
    return json.loads((folder / "run" / "exit-status").read_text())


def start_and_signal(config, number, *settings, processes=1, whom="all", after=6):
    """Run until step `after` is logged, send the signal, wait; return exit code and stderr."""
    process = subprocess.Popen(
        command(config, *settings, processes=processes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    metrics = config.parent / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and f'"step": {after},' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    trainers = children if processes > 1 else []
    for one in {"launcher": [], "all": trainers, "one": trainers[:1]}[whom]:
        one.send_signal(number)
    if whom != "one" or processes == 1:
        process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    return process.returncode, errors


def test_a_second_ctrl_c_leaves_at_once(shards, tmp_path):
    """A checkpoint is being written, and a tracker has much to send."""
    script = f"""
import sys, time
import mae.pretrain, mae.training.checkpoint.saver, mae.training.tracking.tracker
def forever(*arguments):
    print("writing", flush=True)
    time.sleep(600)
mae.training.checkpoint.saver.write_checkpoint = forever
mae.training.tracking.tracker.Tracker.close = forever
sys.exit(mae.pretrain.main([{str(write_config(tmp_path, shards))!r}, "train.epochs=400"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        while "writing" not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=10)
    assert run.returncode == 1
    assert "mae: interrupted; the same command continues the run" in errors


def test_a_second_request_leaves_at_once_and_a_repeated_one_does_not(monkeypatch, capfd):
    """Launchers pass a signal on that every process got; SIGUSR1 announces a SIGTERM."""
    monkeypatch.setattr("mae.training.safety.lifecycle.AGAIN_SECONDS", 0.2)
    for variable in ("MAE_SUPERVISED", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    stop = StopSignals()
    try:
        stop.in_loop = True
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert stop.requested == "SIGTERM"
        time.sleep(0.3)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    finally:
        stop.restore()
    assert capfd.readouterr().err.count("finishing this step, then saving; again to leave") == 1


def test_a_launcher_that_kills_after_a_hang_up_makes_it_a_request_to_stop(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    stop = StopSignals()
    try:
        stop.in_loop = True
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested == "SIGHUP"
    finally:
        stop.restore()


def test_a_lost_terminal_costs_nothing(shards, undisturbed, tmp_path):
    """The terminal is closed in the middle: SIGHUP to all its processes, then writing fails."""
    config, ours, terminal = write_config(tmp_path, shards), *pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command(config, "data.workers=1", "log.panel_every=1")],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(),
    )
    os.close(terminal)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"step": 2,' in metrics.read_text(), seconds=120)
    os.close(ours)
    process.wait(timeout=120)
    assert exit_status(tmp_path)["code"] == 0
    assert same_weights(final_weights(tmp_path / "run"), undisturbed)
    assert "done: 26 steps" in (tmp_path / "run" / "output.log").read_text()


def test_a_full_standard_output_costs_nothing(shards, tmp_path, monkeypatch):
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main([str(write_config(tmp_path, shards)), "train.epochs=2"]) == 0
    lines = (tmp_path / "run" / "output.log").read_text().splitlines()
    assert lines[0].startswith("warning: 13 optimizer steps") and lines[-1].startswith("  mae ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_exits_75(shards, undisturbed, tmp_path, number):
    config = write_config(tmp_path, shards)
    code, errors = start_and_signal(
        config, number, "train.checkpoint_every=1000", "data.workers=1", "train.epochs=400"
    )
    assert code == 75
    name = signal.Signals(number).name
    said, line = errors.splitlines()
    assert said == f"mae: {name}: finishing this step, then saving; again to leave now"
    assert f"stopped by {name} after step " in line
    stopped = int(line.partition("after step ")[2].partition(";")[0])
    assert stopped >= 6
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [
        f"step-{stopped:09d}"
    ]
    assert exit_status(tmp_path)["code"] == 75 and exit_status(tmp_path)["step"] == stopped
    if stopped < STEPS:  # with the schedule of 400 epochs its weights are other ones
        assert events(tmp_path)[-1]["event"] == "stop"


def test_stopped_and_continued_ends_in_the_same_bits(shards, undisturbed, tmp_path):
    config = write_config(tmp_path, shards)
    slow = ("log.panel_every=1",)  # panels take the time in which the signal comes
    code, _ = start_and_signal(config, signal.SIGTERM, *slow, "train.checkpoint_every=1000")
    assert code == 75
    assert launch(config).returncode == 0
    assert same_weights(final_weights(tmp_path / "run"), undisturbed)
    kinds = [event["event"] for event in events(tmp_path)]
    assert kinds == ["start", "stop", "resume", "done"]


@pytest.mark.parametrize(
    "whom",
    [
        pytest.param("all", marks=pytest.mark.fault),
        pytest.param("one", marks=pytest.mark.fault),
        "launcher",
    ],
)
def test_two_processes_stop_together_whichever_gets_the_signal(shards, tmp_path, whom):
    config = write_config(tmp_path, shards)
    code, errors = start_and_signal(
        config,
        signal.SIGTERM,
        "train.checkpoint_every=100000",
        "data.workers=1",
        "train.epochs=400",
        processes=2,
        whom=whom,
    )
    assert code != 0  # the launcher's own
    assert exit_status(tmp_path)["code"] == 75
    stopped = exit_status(tmp_path)["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{stopped:09d}").is_dir()
    assert sum("stopped by" in line for line in errors.splitlines() if "mae: " in line) == 1


def test_a_signal_before_the_first_step_ends_the_start_at_once(shards, tmp_path):
    script = f"""
import os, signal, sys
import mae.pretrain, mae.training.train
opened = mae.training.train.open_training_data
def slowly(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return opened(*arguments)
mae.training.train.open_training_data = slowly
sys.exit(mae.pretrain.main([{str(write_config(tmp_path, shards))!r}]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 75
    assert "stopped by SIGTERM before the first step" in done.stderr
    assert not (tmp_path / "run").exists()


def poisoned(config, steps, *settings, value="nan"):
    """A run whose loss is not finite at these steps."""
    script = f"""
import sys
import mae.pretrain, mae.training.step
whole = mae.training.step.forward
count = 0
def forward(*arguments):
    global count
    count += 1
    output = whole(*arguments)
    poison = float({value!r}) if count in {sorted(steps)!r} else 1.0
    losses = {{name: loss * poison for name, loss in output.losses.items()}}
    return output._replace(losses=losses)
mae.training.step.forward = forward
sys.exit(mae.pretrain.main([{str(config)!r}, *{list(settings)!r}]))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_poisoned_step_is_skipped_counted_and_named(shards, tmp_path, value):
    config = write_config(tmp_path, shards)
    done = poisoned(config, [5, 9], "log.every=4", value=value)
    assert done.returncode == 0, done.stderr
    assert "step 5: skip: gradient not finite" in done.stdout
    rows = metrics_of(tmp_path / "run")
    assert rows[-1]["skipped"] == 2 and "skipped 2" in done.stdout
    assert all(row["loss"] == row["loss"] for row in rows)  # no NaN among the means
    found = [event for event in events(tmp_path) if event["event"] == "skip"]
    assert [event["step"] for event in found] == [5, 9]
    assert all(".tar: key sample-" in event["reason"] for event in found)
    assert all(tensor.isfinite().all() for tensor in final_weights(tmp_path / "run").values())


def test_too_many_in_a_row_stop_the_run_with_a_checkpoint(shards, tmp_path):
    config = write_config(tmp_path, shards)
    done = poisoned(config, range(8, 40), "guard.max_skipped=5", "train.checkpoint_every=1000")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("mae: step 12: the last 5 steps were skipped")
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name == "step-000000012"
    assert exit_status(tmp_path)["code"] == 1


def test_a_spike_is_reported_and_rolled_back_on_request(shards, tmp_path):
    settings = ("guard.spike=6", "train.epochs=12", "train.checkpoint_every=8")
    config = write_config(tmp_path, shards)
    done = poisoned(config, [50], *settings, value="1000")
    assert done.returncode == 0, done.stderr
    assert "step 50: spike: loss" in done.stdout
    assert "rollback" not in [event["event"] for event in events(tmp_path)]

    (tmp_path / "other").mkdir()
    config = write_config(tmp_path / "other", shards)
    done = poisoned(config, [50], *settings, "guard.rollback=true", value="1000")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 48, skipping steps 49 and 50" in done.stdout
    steps = [row["step"] for row in metrics_of(tmp_path / "other" / "run")]
    assert 49 not in steps and 50 not in steps and steps == sorted(set(steps))
    assert steps[-1] == 78
    newest = max((tmp_path / "other" / "run" / "checkpoints").iterdir())
    assert json.loads((newest / "state.json").read_text())["skipped"] == [49, 50]


@pytest.mark.fault
def test_a_spike_before_the_first_checkpoint_goes_back_to_the_start(shards, tmp_path):
    config = write_config(tmp_path, shards)
    settings = ("guard.spike=6", "guard.rollback=true", "train.epochs=8")
    done = poisoned(config, [40], *settings, "train.checkpoint_every=1000", value="1000")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 0, skipping steps 39 and 40" in done.stdout
    rows = metrics_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [*range(1, 39), *range(41, 53)]
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert json.loads((newest / "state.json").read_text())["skipped"] == [39, 40]


@pytest.mark.fault
def test_a_last_step_that_was_skipped_still_ends_in_a_checkpoint(shards, tmp_path):
    config = write_config(tmp_path, shards)
    settings = ("guard.spike=6", "guard.rollback=true", "train.epochs=8", "log.panel_every=1000")
    done = poisoned(config, [52], *settings, "train.checkpoint_every=8", value="1000")
    assert done.returncode == 0, done.stderr
    assert "skipping steps 51 and 52" in done.stdout
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newest.name == "step-000000050"
    assert (tmp_path / "run" / "panels" / "step-000000050.png").exists()
    assert launch(config, *settings, "train.checkpoint_every=8").returncode == 0  # nothing is left


@pytest.mark.fault
def test_one_rollback_too_many_leaves_the_run_as_it_is(shards, tmp_path):
    config = write_config(tmp_path, shards)
    settings = ("guard.spike=6", "guard.rollback=true", "train.epochs=12", "guard.max_rollbacks=1")
    done = poisoned(config, [50, 66], *settings, "train.checkpoint_every=8", value="1000")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("after 1 rollbacks (guard.max_rollbacks)")
    assert [event["event"] for event in events(tmp_path)].count("rollback") == 1


def test_inspect_batch_names_and_shows_what_a_step_saw(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    assert poisoned(config, [5]).returncode == 0
    (event,) = [event for event in events(tmp_path) if event["event"] == "skip"]
    assert mae(["inspect-batch", str(tmp_path / "run"), "5"]) == 0
    printed = capsys.readouterr().out
    names = event["reason"].partition("batch: ")[2].split(", ")
    assert len(names) == 8 and all(name in printed for name in names)
    assert (tmp_path / "run" / "batch-000000005.png").exists()


def test_inspect_batch_names_what_took_a_bad_images_place(
    reference_run, shards, tmp_path, capsys, monkeypatch
):
    shutil.copytree(reference_run.folder, run := tmp_path / "run")
    shutil.copytree(Path(shards).parent, tmp_path / "shards")
    shutil.rmtree(tmp_path / "shards" / ".mae-index")
    spoil(tmp_path / "shards", "sample-00005")
    manifest = build_manifest([f"{tmp_path}/shards/*.tar"], "train")
    place = Order(0, [manifest.counts()])(np.arange(52)).sample.tolist().index(5)
    step, train = place // 8 + 1, ["--train", f"{tmp_path}/shards/*.tar"]
    # Other bytes are other samples for a run: here it is the reading that counts.
    monkeypatch.setattr("mae.commands.inspect_batch.refuse_other_samples", lambda *_: None)
    assert mae(["inspect-batch", str(run), str(step), *train]) == 0
    (line,) = [s for s in capsys.readouterr().out.splitlines() if ", replaced by " in s]
    assert line.split()[0] == str(place % 8) and "key sample-00005, replaced by" in line
    assert mae(["inspect-batch", str(run), str(step), *train, "--count=1"]) == 0
    assert "not read: the last 7 of these (--count)" in capsys.readouterr().out


def test_inspect_batch_shows_no_step_that_the_run_has_not(reference_run, tmp_path, capsys):
    shutil.copytree(reference_run.folder, run := tmp_path / "run")
    assert mae(["inspect-batch", str(run), "27"]) == 2
    assert "step 27: the run has 26 steps" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert mae(["inspect-batch", str(run), "26"]) == 0
    assert "not trained yet: the run stands at step 0" in capsys.readouterr().out


def test_other_held_out_images_at_a_resume_are_named(shards, make_shards, tmp_path, capsys):
    """Under the same name: no setting shows it."""
    config, val = write_config(tmp_path, shards), tmp_path / "val"
    words = [str(config), f"data.val={make_shards(val, 6, size=20)}", "log.health_every=1"]
    lines = []
    for settings in (["train.epochs=2"], ["train.epochs=3"], ["train.epochs=4"]):
        if settings == ["train.epochs=4"]:
            shutil.rmtree(val)
            make_shards(val, 7, size=20)
        assert main([*words, *settings]) == 0
        out = capsys.readouterr().out
        lines.append([one for one in out.splitlines() if "not comparable" in one])
    assert lines[:2] == [[], []]
    assert lines[2][0].startswith("warning: data.val holds other images or labels than at the last")
    assert "not comparable" in events(tmp_path)[-2]["reason"]


def test_more_epochs_are_allowed_and_reported(shards, tmp_path, capsys):
    config = write_config(tmp_path, shards)
    assert main([str(config), "train.epochs=2"]) == 0
    capsys.readouterr()
    assert main([str(config), "train.epochs=3"]) == 0
    printed = capsys.readouterr().out
    assert "changed: train.epochs: 2.0 → 3.0" in printed and "resumed at step 13" in printed
    assert metrics_of(tmp_path / "run")[-1]["step"] == 20
    starts = [json.loads(x) for x in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert [start["event"] for start in starts] == ["start", "resume"]
    assert all(len(start["data"]) == 64 and "torch" in start["packages"] for start in starts)


def test_checkpoints_by_minutes(shards, tmp_path):
    config = write_config(tmp_path, shards)
    settings = ("train.checkpoint_every=100000", "train.keep_last=30")
    assert main([str(config), *settings, "train.checkpoint_minutes=0.00001"]) == 0
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) > 5


def test_the_runs_status_is_not_written_into_a_folder_of_others(shards, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    assert main([str(write_config(tmp_path, shards))]) == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_run_cannot_be_made_shorter_than_it_is(reference_run, tmp_path, capsys):
    shutil.copytree(reference_run.folder, run := tmp_path / "run")
    config = reference_run.folder.parent / "tiny.yaml"
    words = [str(config), "log.panel_every=10", f"output={run}", "train.epochs=2"]
    before = (run / "config.yaml").read_text()
    assert main(words) == 2
    assert "train.epochs: 2 are 13 steps, but" in (message := capsys.readouterr().err)
    assert "stands at step 26" in message
    assert (run / "config.yaml").read_text() == before


def test_a_run_that_skipped_most_steps_is_not_done(shards, tmp_path, capsys):
    """Also where there were fewer than guard.max_skipped, and where the command is repeated."""
    words = [str(write_config(tmp_path, shards)), "train.epochs=2", "optim.lr=1e20"]
    for _ in range(2):
        assert main(words) == 1
        out, errors = capsys.readouterr()
        assert "11 of 13 steps were skipped" in errors and "done" not in out
    assert exit_status(tmp_path)["code"] == 1
