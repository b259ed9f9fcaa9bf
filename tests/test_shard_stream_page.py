"""The page docs/SHARD_STREAM.md: its code runs, stops anywhere and goes on to the same weights."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mae.cli import main
from tests.runs import environment

ROOT = Path(__file__).parents[1]
LOOP = ROOT / "launch" / "shard_stream_loop.py"
PAGE = (ROOT / "docs" / "SHARD_STREAM.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
STEPS = 30


def start(shards, checkpoint, **variables):
    words = [sys.executable, str(LOOP), shards, str(checkpoint), "--steps", str(STEPS)]
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*words, "--workers", "1"], env=environment() | path | variables)


def weights(checkpoint):
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["step"] == STEPS and saved["stream"]["position"] == 16 * STEPS
    return saved["model"]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("loop") / "run.pt"
    assert start(shards, checkpoint).wait() == 0
    return weights(checkpoint)


def test_the_page_shows_the_loop_as_it_is():
    assert BLOCKS[1] == LOOP.read_text()


def test_the_first_lines_of_the_page(shards, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    (file,) = re.findall(r"mae index .* --out (\S+)", PAGE)
    main(["index", shards, "--out", file])
    code = BLOCKS[0].replace("batch_size=256", "batch_size=8")
    names = {}
    exec(f"{code.rstrip()}\n    break\n", names)
    assert names["batch"].images.shape == (8, 3, 224, 224) and names["state"]["position"] == 8
    names["stream"].load_state_dict(names["state"])


@pytest.mark.fault
def test_killed_in_the_middle_it_ends_in_the_same_weights(shards, undisturbed, tmp_path):
    checkpoint = tmp_path / "run.pt"
    killed = start(shards, checkpoint)
    while not checkpoint.exists():
        assert killed.poll() is None
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    assert torch.load(checkpoint, weights_only=True)["step"] < STEPS
    assert start(shards, checkpoint).wait() == 0
    found = weights(checkpoint)
    assert all(torch.equal(found[name], undisturbed[name]) for name in undisturbed)


def test_two_processes_go_on_with_the_same_batches(shards, undisturbed, tmp_path):
    checkpoint = tmp_path / "run.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [start(shards, checkpoint, RANK=str(rank), **group) for rank in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    found = weights(checkpoint)
    for name, expected in undisturbed.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
