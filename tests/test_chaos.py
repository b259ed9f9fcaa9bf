"""Killed at random moments, again and again: what is left at the end is what nobody disturbed."""

import json
import random
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import torch

from mae.data.training_data import open_training_data
from mae.training.checkpoint.run import Run
from tests.runs import environment, final_weights, launcher, metrics_of, same_weights, write_config

# A checkpoint after every step: many of the kills fall into the writing of one.
SETTINGS = ("train.checkpoint_every=1", "data.workers=1")
LONG = ("train.epochs=40",)
"""260 steps"""
SHORT = ("train.epochs=10",)
"""65 steps"""
PATIENCE = 300

LOGGING_RUN = '''
"""mae.pretrain; every process logs each step's samples, by their numbers, before it is made."""
import json, os, sys
import mae.training.step
from mae.pretrain import main
from mae.training.meter import Meter

file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
forward, end_step, samples = mae.training.step.forward, Meter.end_step, []

def logged_forward(learner, batch, progress):
    samples.extend(batch.samples.tolist())
    return forward(learner, batch, progress)

def logged_end_step(self, step, norm):
    row = {"life": int(sys.argv[2]), "step": step, "rank": int(os.environ.get("RANK", "0"))}
    os.write(file, json.dumps({**row, "pid": os.getpid(), "samples": samples}).encode() + b"\\n")
    samples.clear()
    return end_step(self, step, norm)

mae.training.step.forward, Meter.end_step = logged_forward, logged_end_step
sys.exit(main(sys.argv[3:]))
'''


class Drill(NamedTuple):
    """A run of several lives."""

    config: Path
    settings: tuple[str, ...]

    @property
    def run(self) -> Path:
        return self.config.parent / "run"

    @property
    def log(self) -> Path:
        return self.config.parent / "samples.jsonl"

    def start(self, life: int, processes: int) -> subprocess.Popen:
        script = self.config.parent / "logging_run.py"
        script.write_text(LOGGING_RUN)
        line = [*launcher(processes), str(script), str(self.log), str(life), str(self.config)]
        line += self.settings
        with (self.config.parent / "output.txt").open("ab") as output:
            return subprocess.Popen(line, stdout=output, stderr=output, env=environment())

    def step_rows(self) -> list[dict]:
        """Rows that the processes logged, one per step; a line cut off by a kill is skipped."""
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def is_saving(self) -> bool:
        return any((self.run / "checkpoints").glob("step-*.tmp"))

    def finish(self, life: int, processes: int) -> None:
        process = self.start(life, processes)
        assert process.wait(PATIENCE) == 0, (self.config.parent / "output.txt").read_text()[-2000:]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shards):
    """`undisturbed(settings)`: the weights at the end of a run of one process."""

    @cache
    def weights(settings):
        drill = Drill(write_config(tmp_path_factory.mktemp("whole"), shards), SETTINGS + settings)
        drill.finish(0, processes=1)
        return final_weights(drill.run)

    return weights


def stopped_processes(pid: int) -> list[psutil.Process]:
    """A launcher and all below it, all of them stopped: none tidies up after another."""
    first = psutil.Process(pid)
    first.suspend()
    members = [first, *first.children(recursive=True)]
    for member in members[1:]:
        member.suspend()
    standing = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    while any(member.status() not in standing for member in members):  # what waits for a disk
        time.sleep(0.001)
    return members


def kill(drill: Drill, life: int, processes: int, chance: random.Random, in_save: bool) -> bool:
    """Start, and kill −9 all of it some steps later; whether a checkpoint was being written.

    With `in_save` it always was.  All processes that train lived to that moment.
    """
    process = drill.start(life, processes)
    wanted, own, deadline = chance.randint(3, 5), [], time.monotonic() + PATIENCE
    while len(own) < processes * wanted:  # by the third step the first one's checkpoint is whole
        own = [row for row in drill.step_rows() if row["life"] == life]
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0 if in_save else chance.uniform(0, 0.03))
    while True:
        while in_save and not drill.is_saving():
            assert process.poll() is None and time.monotonic() < deadline
        members = stopped_processes(process.pid)
        was_saving = drill.is_saving()
        if was_saving or not in_save:
            break
        for member in members:  # it was whole by then: the next one
            member.resume()
    pids = {row["pid"] for row in own}
    living = {one.pid for one in members if one.status() == psutil.STATUS_STOPPED}
    assert pids <= living and len(pids) == processes
    for member in members:
        member.kill()
    process.wait()
    psutil.wait_procs(members[1:], timeout=20)
    return was_saving


def assert_every_sample_was_used_as_the_order_says(drill: Drill, steps: int) -> None:
    """Compare the samples of each step's last life, over all processes, with the order.

    The order itself is checked too: each epoch holds each sample once.
    """
    config, data = open_training_data(Run(drill.run).config())
    size, logged = config.train.batch_size, drill.step_rows()
    used = []
    for step in range(1, steps + 1):
        rows = [row for row in logged if row["step"] == step]
        last = [row for row in rows if row["life"] == max(row["life"] for row in rows)]
        last.sort(key=lambda row: row["rank"])
        assert [row["rank"] for row in last] == list(range(len(last)))
        used += [sample for row in last for sample in row["samples"]]
    assert used == data.order(np.arange(steps * size)).sample.tolist()
    for first in range(0, len(used) - 51, 52):
        assert sorted(used[first : first + 52]) == list(range(52))


def carry_out(drill: Drill, steps: int, kills: int, counts: list[int]) -> None:
    """Run all lives with `counts` processes in turn; every other kill comes during a save."""
    chance = random.Random(kills)
    in_save = sum(
        kill(drill, life, counts[life % len(counts)], chance, in_save=life % 2 == 1)
        for life in range(1, kills + 1)
    )
    drill.finish(kills + 1, counts[(kills + 1) % len(counts)])
    assert in_save >= (kills + 1) // 2
    lives = range(1, kills + 2)
    firsts = [min(r["step"] for r in drill.step_rows() if r["life"] == life) for life in lives]
    assert firsts[0] == 1 and sorted(set(firsts)) == firsts  # each went on where it stood
    assert [row["step"] for row in metrics_of(drill.run)] == list(range(1, steps + 1))
    names = sorted(path.name for path in (drill.run / "checkpoints").iterdir())
    assert names == [f"step-{steps - 1:09d}", f"step-{steps:09d}"]  # no leftover files
    assert not list(drill.run.rglob("*.tmp"))
    assert_every_sample_was_used_as_the_order_says(drill, steps)


@pytest.mark.parametrize(
    ("kills", "length", "steps"),
    [(1, SHORT, 65), pytest.param(30, LONG, 260, marks=pytest.mark.fault)],
)
def test_killed_again_and_again_ends_in_the_same_bits(
    shards, undisturbed, tmp_path, kills, length, steps
):
    drill = Drill(write_config(tmp_path, shards), SETTINGS + length)
    carry_out(drill, steps, kills, counts=[1])
    assert same_weights(final_weights(drill.run), undisturbed(length))


@pytest.mark.fault
@pytest.mark.parametrize("kills", [1, 10])
def test_killed_and_continued_with_other_numbers_of_processes(shards, undisturbed, tmp_path, kills):
    """Two processes add up in another order: the same weights to rounding, after so few steps.

    Training magnifies rounding from step to step, so a longer run would differ more.  And keys'
    biases are left out: they move all of a query's scores alike, so that their gradient is
    nothing but rounding, which Adam makes into steps of full length.
    """
    drill = Drill(write_config(tmp_path, shards), SETTINGS + SHORT)
    carry_out(drill, 65, kills, counts=[1, 2, 2])
    weights, expected = final_weights(drill.run), undisturbed(SHORT)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        one, other = tensor, expected[name]
        if name.endswith("attn.qkv.bias"):
            (q, _, v), (q_expected, _, v_expected) = one.chunk(3), other.chunk(3)
            one, other = torch.cat([q, v]), torch.cat([q_expected, v_expected])
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6, msg=name)
