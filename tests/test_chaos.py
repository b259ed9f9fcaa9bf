"""Killed at random moments, again and again: what is left at the end is what nobody disturbed."""

import random
import subprocess
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch

from tests.runs import command, environment, final_weights, launch, metrics_of, write_config

# A checkpoint after every step: many of the kills fall into the writing of one.
SETTINGS = ("train.epochs=40", "train.checkpoint_every=1", "data.workers=1")
STEPS = 260


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make_shards):
    folder = tmp_path_factory.mktemp("shards")
    return make_shards(folder, 52, shard_size=20, size=(20, 24), extension="png")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = launch(write_config(folder, shards), *SETTINGS)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def live(config, lifetime, processes):
    """Start, wait for the first step, and kill −9 all of it `lifetime` seconds later."""
    metrics = config.parent / "run" / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    process = subprocess.Popen(
        command(config, *SETTINGS, processes=processes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.stat().st_mtime_ns != before:
            break
        time.sleep(0.01)
    time.sleep(lifetime)
    try:
        launcher = psutil.Process(process.pid)
        family = [launcher, *launcher.children(recursive=True)]
        for member in family:  # all of them first, so that none tidies up after another
            with suppress(psutil.NoSuchProcess):
                member.suspend()
        for member in family:
            member.kill()
        psutil.wait_procs(family[1:], timeout=20)
    except psutil.NoSuchProcess:
        pass  # it had come to its end
    process.wait()


def drill(config, kills, seed, counts):
    chance = random.Random(seed)
    for _ in range(kills):
        live(config, chance.uniform(0, 0.6), chance.choice(counts))
    done = launch(config, *SETTINGS)
    assert done.returncode == 0, done.stderr
    folder = config.parent / "run"
    assert [row["step"] for row in metrics_of(folder)] == list(range(1, STEPS + 1))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == [f"step-{STEPS - 1:09d}", f"step-{STEPS:09d}"]  # no leftover files
    assert not list(folder.rglob("*.tmp"))
    return final_weights(folder)


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.fault)])
def test_killed_again_and_again_ends_in_the_same_bits(shards, undisturbed, tmp_path, kills):
    weights = drill(write_config(tmp_path, shards), kills, seed=kills, counts=[1])
    expected = final_weights(undisturbed)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.fault)])
def test_killed_and_continued_with_other_numbers_of_processes(shards, undisturbed, tmp_path, kills):
    drill(write_config(tmp_path, shards), kills, seed=kills, counts=[2, 1, 2])
    # Sums of two processes add up in another order, and 260 steps magnify rounding.
    losses = [[row["loss"] for row in metrics_of(run)] for run in (tmp_path / "run", undisturbed)]
    np.testing.assert_allclose(losses[0][:30], losses[1][:30], rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
