"""Trainings in this process: the command's runs, in a program that goes on afterwards."""

import contextlib
import fcntl
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator

import mae
from mae.api import training
from mae.api.calling_program import kept_state
from mae.commands.evaluate import evaluate_held_out
from tests.runs import events_of, exit_status, final_weights, same_weights, write_config

FINETUNING = {
    "train": {"epochs": 2, "batch_size": 12, "checkpoint_every": 100},
    "optim": {"warmup_epochs": 0.5, "lr": 1e-3},
    "data.workers": 0,
    "log": {"every": 1, "wandb": False},
}


@pytest.fixture(autouse=True)
def one_thread():
    """As in processes that tests start: sums add up in one order."""
    import_module("mae.training.train")  # its libraries set variables of the environment
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe(tmp_path, shards):
    """The reference run's recipe, for a run beside it."""
    return write_config(tmp_path, shards)


def program_state():
    """What a training must leave as it was."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM]
    return (
        [signal.getsignal(number) for number in numbers],
        (sys.stdout, sys.stderr, sys.excepthook),
        (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        (Path.cwd(), dict(os.environ)),
        [child.pid for child in psutil.Process().children(recursive=True)],
    )


class Signalled(io.StringIO):
    """Standard output that raises when a line is printed: signals, or an error."""

    def __init__(self, words, *raised):
        super().__init__()
        self.words, self.raised = words, raised

    def write(self, text):
        if self.words in text:
            self.words = "\0"
            for one in self.raised:
                if isinstance(one, Exception):
                    raise one
                signal.raise_signal(one)
        return super().write(text)


def is_locked(folder):
    """True where another process finds the folder in use."""
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-c", code, str(folder / "lock")], capture_output=True)
    return done.returncode != 0


def test_the_lock_is_seen_by_others(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        assert not is_locked(tmp_path)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert is_locked(tmp_path)


def test_two_runs_in_a_program_are_those_of_the_command(recipe, reference_run, tmp_path, capsys):
    with kept_state():  # other tests' accelerators
        own = Accelerator(cpu=True, mixed_precision="bf16")
        before = program_state()
        run = mae.train(recipe, log={"panel_every": 10})
        second = mae.train(recipe, out=tmp_path / "second", train={"precision": "fp32"})
        assert program_state() == before
        assert own.mixed_precision == "bf16" and own.num_processes == 1
    expected = final_weights(reference_run.folder)
    assert same_weights(final_weights(run.path), expected)
    assert same_weights(final_weights(second.path), expected)
    assert run.path == tmp_path / "run" and run.finished and run.step == 26
    assert exit_status(run.path)["code"] == 0 and events_of(run.path)[-1]["event"] == "done"
    assert "done: 26 steps" in capsys.readouterr().out
    (start,) = map(json.loads, (second.path / "starts.jsonl").read_text().splitlines())
    given = f"out='{tmp_path}/second', train={{'precision': 'fp32'}}"
    assert start["command"] == f"mae.train('{recipe}', {given})"
    assert not is_locked(run.path)
    at = run.path.stat().st_mtime_ns
    assert mae.train(recipe, log={"panel_every": 10}).finished  # at once
    assert run.path.stat().st_mtime_ns >= at
    with pytest.raises(mae.UserError, match=r"holds a run with other settings"):
        mae.train(recipe, model={"mask_ratio": 0.5})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_with_the_same_call(recipe, reference_run, number, tmp_path):
    before, printed = program_state(), Signalled("epoch 1.2", number)
    kind = KeyboardInterrupt if number == signal.SIGINT else mae.Stopped
    with contextlib.redirect_stdout(printed), pytest.raises(kind) as raised:
        mae.train(recipe, data={"workers": 1})
    run = mae.Run(tmp_path / "run")
    stopped = run.step
    assert f"{run.path}: stopped by {number.name} after step {stopped}" in str(raised.value)
    assert "the same call continues the run" in str(raised.value)
    assert (run.state, run.finished) == ("stopped", False) and 0 < stopped < 26
    assert program_state() == before  # no data worker is left, either
    assert run.load().features == ["mean", "cls"]
    again = mae.train(recipe)
    assert again.finished and same_weights(
        final_weights(again.path), final_weights(reference_run.folder)
    )


def test_a_second_interrupt_leaves_without_a_checkpoint(recipe, tmp_path):
    before, printed = program_state(), Signalled("epoch 0.3", signal.SIGINT, signal.SIGINT)
    with contextlib.redirect_stdout(printed), pytest.raises(KeyboardInterrupt):
        mae.train(recipe, train={"checkpoint_every": 100})
    assert program_state() == before and not is_locked(tmp_path / "run")
    assert exit_status(tmp_path / "run")["reason"].startswith("interrupted")
    assert mae.Run(tmp_path / "run").state == "failed"
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_an_error_inside_leaves_nothing_behind(recipe, tmp_path):
    """Not even while the program keeps the error, as notebooks do."""
    before, printed = program_state(), Signalled("epoch 0.3", RuntimeError("boom"))
    with contextlib.redirect_stdout(printed), pytest.raises(RuntimeError, match=r"boom") as raised:
        mae.train(recipe, data={"workers": 1})
    assert raised.traceback and program_state() == before
    assert not is_locked(tmp_path / "run")


def test_a_training_in_another_thread(recipe, reference_run):
    found = []
    thread = threading.Thread(target=lambda: found.append(mae.train(recipe)))
    thread.start()
    thread.join()
    assert same_weights(final_weights(found[0].path), final_weights(reference_run.folder))


def test_one_training_at_a_time(recipe):
    with (
        training.one_at_a_time(),
        pytest.raises(mae.UserError, match=r"another one is running in this process"),
    ):
        mae.train(recipe)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "nosuch.yaml"}, "nosuch.yaml: no such config file"),
        ({"recipe": {}}, "out: give the folder of the run"),
        ({"data": "nosuch/*.tar"}, r"data.train: .*nosuch/\*.tar"),
        ({"train": {"epoch": 3}}, "^settings: train.epoch: unknown key, did you mean epochs"),
        ({"val": ["a.tar"], "data": {"val": "b.tar"}}, "settings: data.val is given twice"),
    ],
)
def test_wrong_use(recipe, given, message, capsys):
    with pytest.raises(mae.UserError, match=message):
        mae.train(given.pop("recipe", recipe), **given)
    assert capsys.readouterr().err == ""  # the program decides what it prints


def test_processes_of_a_launcher_are_refused(recipe, monkeypatch):
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}
    for name, value in (group | {"MASTER_ADDR": "localhost"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(mae.UserError, match=r"a launcher started 2 processes"):
        mae.train(recipe)


def test_what_a_program_has_set_stays(recipe, monkeypatch):
    """Its process group, and variables that a tracker changes or adds."""
    from torch import distributed

    from mae.training import train as module

    def tracked(*words):
        os.environ.update(MLFLOW_RUN_ID="ours", COMET_LOGGING_CONSOLE="ERROR")
        return original(*words)

    original = module.build_accelerator
    monkeypatch.setattr(module, "build_accelerator", tracked)
    monkeypatch.setenv("MLFLOW_RUN_ID", "theirs")
    monkeypatch.delenv("COMET_LOGGING_CONSOLE", raising=False)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mae.train(recipe, train={"epochs": 1}, optim={"warmup_epochs": 0})
        assert distributed.is_initialized()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    assert os.environ["MLFLOW_RUN_ID"] == "theirs" and "COMET_LOGGING_CONSOLE" not in os.environ


def test_a_classifier_is_trained_and_evaluated(reference_run, shards, tmp_path, capsys):
    run = mae.Run(reference_run.folder)
    found = mae.train_classifier(run, shards, val=shards, out=tmp_path / "tuned", **FINETUNING)
    assert found.finished and found.config.objective == "classifier"
    report = found.figures["evaluation"]
    assert f"{report['accuracy']:.1%}" in capsys.readouterr().out
    model = found.load()
    chances = model.predict(shards)
    assert chances.shape == (52, 3) and model.classes == ["0", "1", "2"]
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    labels = np.arange(52) % 3
    assert (chances.argmax(axis=1) == labels).mean() == pytest.approx(report["accuracy"])
    assert "accuracy" in evaluate_held_out(found.config)


def test_a_classifier_needs_labels(reference_run, make_shards, tmp_path):
    unlabelled = make_shards(tmp_path / "shards", 16, size=(20, 24), labels=False)
    with pytest.raises(mae.UserError, match=r"^data.train: .*label"):
        mae.train_classifier(reference_run.folder, unlabelled, out=tmp_path / "tuned", **FINETUNING)
    with pytest.raises(mae.UserError, match=r"nosuch"):
        mae.train_classifier(tmp_path / "nosuch")


def test_build():
    tiny = {"encoder_kwargs": {"embed_dim": 32, "depth": 1, "num_heads": 2}, "patch_size": 4}
    recipe = {"model": {"encoder": "vit_tiny_patch16_224", **tiny}, "data": {"img_size": 16}}
    one, same, other = (mae.build(recipe, **{"train.seed": seed}) for seed in (0, 0, 1))
    assert one.training and one.img_size == (16, 16)
    assert same_weights(one.state_dict(), same.state_dict())
    assert not same_weights(one.state_dict(), other.state_dict())
    with pytest.raises(mae.UserError, match=r"settings: model.mask_raito"):
        mae.build(recipe, **{"model.mask_raito": 0.5})
    with pytest.raises(mae.UserError, match=r"^data\.own_statistics: is measured"):
        mae.build(recipe, **{"data.own_statistics": True})
    measured = {"own_statistics": True, "mean": [0.5] * 3}  # as in the settings of a run
    assert mae.build(recipe, data=measured).img_size == (16, 16)
