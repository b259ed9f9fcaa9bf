import errno
import json
import re
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from mae.base.errors import UserError
from mae.config.sections import OptimConfig
from mae.networks.vit import parameter_groups
from mae.training.checkpoint import checkpoint_files
from mae.training.checkpoint.average import MovingAverage
from mae.training.checkpoint.checkpoint_files import read_state, with_checksum
from mae.training.checkpoint.resume import resume
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import Saver
from mae.training.optim import build_optimizer, set_lr
from tests.runs import environment, forked
from tests.training.checkpoint.test_checkpoint_files import flip, names, steps, training_state

DATA: Any = SimpleNamespace(fingerprint="abc", is_recorded_as="abc".__eq__)
"""the manifest's only field that resuming reads"""


class Small(nn.Module):
    """A bit of everything: matrices, a norm, a token, a frozen parameter, a buffer."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.token = nn.Parameter(torch.randn(1, 1, 5))
        self.fixed = nn.Parameter(torch.randn(3, 5), requires_grad=False)
        self.register_buffer("scale", torch.full((3,), 0.5))
        self.blocks = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))

    def forward(self, x):
        tokens = x[:, None] * self.token + self.fixed
        return (self.blocks(tokens).mean(1) * self.scale).square().mean()


def build(seed=0) -> tuple[Any, torch.optim.Optimizer]:
    model = Small(seed)
    return model, build_optimizer(parameter_groups(model, 0.05), OptimConfig())


def train(forward, optimizer, first, last, process=0, processes=1):
    """Steps `first` to `last`, on this process's share of each batch of 8."""
    for number in range(first, last + 1):
        batch = torch.randn(8, 5, generator=torch.Generator().manual_seed(number))
        set_lr(optimizer, 0.01)
        share = 8 // processes
        forward(batch[process * share : (process + 1) * share]).backward()
        optimizer.step()
        optimizer.zero_grad()


def save(run, model, optimizer, number, accelerator=None, **fields):
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    saver = Saver(run.checkpoints, 9, 0, accelerator or Accelerator(cpu=True))
    saver.save(model, optimizer, training_state(number)._replace(**fields), wait=True)
    saver.close()


def go_on(run, model, optimizer, accelerator=None, before=None):
    return resume(run, model, optimizer, DATA, accelerator or Accelerator(cpu=True), before)


def saved(run, number):
    path = run.checkpoints / f"step-{number:09d}"
    return load_file(path / "model.safetensors") | load_file(path / "optimizer.safetensors")


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 1, 2 and 3, and a row of metrics for each."""
    run = Run(tmp_path)
    model, optimizer = build()
    for number in (1, 2, 3):
        train(model, optimizer, number, number)
        save(run, model, optimizer, number)
        run.write_metrics({"step": number})
    return run


def rows(run):
    return [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()]


def test_a_new_run_starts_at_nothing(tmp_path):
    resumed = go_on(Run(tmp_path), *build())
    assert resumed == (training_state(0), [])


def test_a_run_goes_on_from_its_newest_checkpoint(run):
    model, optimizer = build(seed=1)
    resumed = go_on(run, model, optimizer)
    assert resumed == (training_state(3), [])
    train(model, optimizer, 4, 5)
    save(run, model, optimizer, 5)
    model, optimizer = build()
    train(model, optimizer, 1, 5)
    assert torch.equal(saved(run, 5)["token"], model.token)


def test_skipped_batches_are_remembered(run):
    save(run, *go_on_and_build(run), 4, skipped=(2,))
    assert go_on(run, *build()).state.skipped == (2,)


def go_on_and_build(run):
    model, optimizer = build()
    go_on(run, model, optimizer)
    return model, optimizer


def test_a_damaged_one_is_skipped_reported_and_kept_under_another_name(run):
    (run.checkpoints / "step-000000009.1234.tmp").mkdir()
    flip(run.checkpoints / "step-000000003" / "model.safetensors")
    resumed = go_on(run, *build())
    assert resumed.state == training_state(2)
    (note,) = resumed.notes
    assert note.startswith(f"damaged {run.checkpoints}/step-000000003: model.safetensors is damag")
    assert note.endswith("; kept as step-000000003.damaged; resuming from step-000000002")
    assert names(run.checkpoints) == ["step-000000001", "step-000000002", "step-000000003.damaged"]
    assert len(names(run.checkpoints / "step-000000003.damaged")) == 3
    assert rows(run) == [1, 2]
    assert go_on(run, *build()) == (training_state(2), [])


def test_of_two_damaged_ones_the_newer_is_kept(run):
    for number in (2, 3):
        flip(run.checkpoints / f"step-{number:09d}" / "state.json")
    resumed = go_on(run, *build())
    newer, older = resumed.notes
    assert "step-000000003: " in newer and "; kept as step-000000003.damaged; resuming" in newer
    assert "step-000000002: " in older and "; deleted; resuming from step-000000001" in older
    assert names(run.checkpoints) == ["step-000000001", "step-000000003.damaged"]


@pytest.mark.parametrize("reason", ["Permission denied", "format 2"])
def test_one_that_cannot_be_evaluated_stops_the_start_and_all_stays(run, monkeypatch, reason):
    """The newest may be good: to go on from an older one would lose it."""
    newest = run.checkpoints / "step-000000003"
    if reason == "format 2":
        state = json.loads((newest / "state.json").read_text())
        (newest / "state.json").write_text(json.dumps(with_checksum({**state, "format": 2})))
    else:

        def fail(path):
            raise PermissionError(errno.EACCES, reason)

        monkeypatch.setattr(checkpoint_files, "_stamp", fail)
    with pytest.raises(UserError, match=reason) as refused:
        go_on(run, *build())
    assert len(str(refused.value).splitlines()) == 1 and str(newest) in str(refused.value)
    assert steps(run.checkpoints) == rows(run) == [1, 2, 3]


def test_all_damaged_is_refused_and_nothing_is_removed(run):
    for number in (1, 2, 3):
        flip(run.checkpoints / f"step-{number:09d}" / "optimizer.safetensors")
    with pytest.raises(UserError, match="no intact checkpoint"):
        go_on(run, *build())
    assert steps(run.checkpoints) == rows(run) == [1, 2, 3]


def test_going_back_forgets_what_came_after(run):
    model, optimizer = build(seed=1)
    assert go_on(run, model, optimizer, before=3).state == training_state(2)
    assert steps(run.checkpoints) == rows(run) == [1, 2]
    assert torch.equal(saved(run, 2)["token"], model.token)


def test_where_there_is_nothing_to_go_back_to_all_is_left_as_it_is(run):
    model, optimizer = build(seed=1)
    with pytest.raises(UserError, match="no checkpoint before step 1 to roll back to"):
        go_on(run, model, optimizer, before=1)
    assert steps(run.checkpoints) == rows(run) == [1, 2, 3]
    assert torch.equal(model.token, build(seed=1)[0].token)


def test_other_data_is_refused(run):
    model, optimizer = build()
    others: Any = SimpleNamespace(fingerprint="def", is_recorded_as="def".__eq__)
    with pytest.raises(UserError, match=r"data\.train: not the samples that .*step-000000003 was"):
        resume(run, model, optimizer, others, Accelerator(cpu=True))


def test_an_average_goes_on_where_it_was_and_begins_at_the_weights(tmp_path):
    run = Run(tmp_path)
    model, optimizer = build()
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.token.add_(1)  # loaded since
    resume(run, model, optimizer, DATA, Accelerator(cpu=True), average=average)
    assert torch.equal(average.tensors()["token"], model.token)
    for number in (1, 2, 3):
        train(model, optimizer, number, number)
        average.update(number)
    run.checkpoints.mkdir(parents=True)
    saver = Saver(run.checkpoints, 9, 0, Accelerator(cpu=True))
    saver.save(model, optimizer, training_state(3), wait=True, average=average)
    saver.save_alone(model, optimizer, training_state(4), average)
    saver.close()
    for before in (None, 4):
        found, its = build(seed=1)
        again = MovingAverage(found, 0.9)
        resume(run, found, its, DATA, Accelerator(cpu=True), before, again)
        for name, tensor in average.tensors().items():
            assert torch.equal(again.tensors()[name], tensor)
    found, its = build(seed=1)
    with pytest.raises(UserError, match=r"000003: holds a moving .* but train\.ema is 0"):
        go_on(run, found, its)
    assert torch.equal(found.token, build(seed=1)[0].token)


LEGS = """
import sys
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from mae.base.errors import RunFailed
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import Saver
from tests.training.checkpoint.test_checkpoint_files import training_state
from tests.training.checkpoint.test_resume import build, go_on, save, train

accelerator = Accelerator(cpu=True)
plain = accelerator.distributed_type
plugin = FullyShardedDataParallelPlugin(
    fsdp_version=2,
    auto_wrap_policy="size_based_wrap",
    min_num_params=10,
    cpu_ram_efficient_loading=False,
)

def prepare(is_sharded):
    # accelerate shards on GPUs only; asked to, it does so on CPUs as well.
    accelerator.state.distributed_type = DistributedType.FSDP if is_sharded else plain
    accelerator.state.fsdp_plugin = plugin if is_sharded else None
    model, optimizer = build(seed=accelerator.process_index)
    forward, _ = accelerator.prepare(model, optimizer)
    assert any(isinstance(p, DTensor) for p in model.parameters()) == is_sharded
    return forward, model, optimizer

def leg(folder, kind, first, last):
    forward, model, optimizer = prepare(kind == "sharded")
    resumed = go_on(Run(folder), model, optimizer, accelerator)
    assert resumed.state.step == first - 1, resumed
    train(forward, optimizer, first, last, accelerator.process_index, 2)
    save(Run(folder), model, optimizer, last, accelerator)
    return model, optimizer
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Run folder and stdout of two processes: sharded, DDP, sharded again, failing saves."""
    folder = tmp_path_factory.mktemp("two")
    model, optimizer = build()
    train(model, optimizer, 1, 3)
    save(Run(folder / "cycle"), model, optimizer, 3)
    (folder / "legs.py").write_text(
        f"""{LEGS}
folder = {str(folder)!r}
leg(f"{{folder}}/cycle", "sharded", 4, 6)
leg(f"{{folder}}/cycle", "ddp", 7, 9)
model, optimizer = leg(f"{{folder}}/cycle", "sharded", 10, 12)

def report(what, call):
    try:
        answer = call()
    except RunFailed as error:
        answer = error
    print(f"{{what}} {{accelerator.process_index}}: {{answer}}\\n", end="", flush=True)

saver = Saver(Run(f"{{folder}}/cycle").checkpoints, 9, 0, accelerator)
report("alone", lambda: saver.save_alone(model, optimizer, training_state(13)))
lost = Saver(Run(f"{{folder}}/nowhere").checkpoints, 9, 0, accelerator)
report("lost", lambda: lost.save(model, optimizer, training_state(13)))
if accelerator.is_main_process:
    import mae.training.checkpoint.saver
    def fail(*args):
        raise OSError("the disk is on fire")
    mae.training.checkpoint.saver.write_checkpoint = fail
report("unlucky", lambda: saver.save(model, optimizer, training_state(13), wait=True))
report("problem", saver.problem)
saver = Saver(Run(f"{{folder}}/cycle").checkpoints, 9, 0, accelerator)
if not accelerator.is_main_process:  # in its own shards only
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().fill_(float("nan"))
report("nan", lambda: saver.save(model, optimizer, training_state(13)))
accelerator.end_training()
"""
    )
    line = forked(str(folder / "legs.py"))
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One process, never stopped."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    model, optimizer = build()
    for number in (3, 6, 9, 12, 15):
        train(model, optimizer, number - 2, number)
        save(run, model, optimizer, number)
    return run


@pytest.mark.parametrize("number", [6, 9, 12])
def test_one_process_then_sharded_then_ddp_then_sharded_is_one_run(
    two_processes, undisturbed, number
):
    """Weights and moments have the same names and numbers, however they were saved."""
    folder, _ = two_processes
    run = Run(folder / "cycle")
    assert read_state(run.checkpoints / f"step-{number:09d}") == training_state(number)
    assert_equal(saved(run, number), saved(undisturbed, number))


def test_one_process_goes_on_from_what_was_saved_sharded(two_processes, undisturbed):
    run = Run(two_processes[0] / "cycle")
    model, optimizer = build(seed=5)
    assert go_on(run, model, optimizer).state == training_state(12)
    train(model, optimizer, 13, 15)
    save(run, model, optimizer, 15)
    assert_equal(saved(run, 15), saved(undisturbed, 15))


@pytest.mark.parametrize(
    ("what", "answers"),
    [
        ("alone", ["False", "False"]),
        ("lost", ["step 13: .*nowhere/checkpoints takes no checkpoint: .*No such file"] * 2),
        ("unlucky", ["step 13: .* takes no checkpoint: the disk is on fire; .*"] * 2),
        ("problem", ["step 13: .* takes no checkpoint: the disk is on fire; .*", "None"]),
        ("nan", ["step 13: the weights are not finite; nothing was saved"] * 2),
    ],
)
def test_an_error_reaches_all_processes_and_none_is_left_waiting(two_processes, what, answers):
    """An error on one process ends `save` on both; `problem` is the main process's."""
    lines = two_processes[1].splitlines()
    for process, answer in enumerate(answers):
        (line,) = [line for line in lines if line.startswith(f"{what} {process}: ")]
        assert re.match(f"{what} {process}: {answer}", line), line
