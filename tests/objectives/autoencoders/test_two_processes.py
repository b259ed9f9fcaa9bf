"""Two real processes train every autoencoder as one does: 20 steps in float64, to 1e-9."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.objectives.autoencoders.recipes import NAMES, assert_close, train, words
from tests.runs import environment, final_weights, launched, metrics_of

LONGER = ["train.epochs=3.05"]
"""20 steps"""


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, needs, shards) -> Path:
    """Folder of all runs, by two processes that train one after another."""
    folder = tmp_path_factory.mktemp("two")
    lines = [
        words(name, shards, folder / name, *LONGER, *needs(name), "train.num_processes=2")
        for name in NAMES
    ]
    (folder / "lines.json").write_text(json.dumps(lines))
    module = "tests.objectives.autoencoders.double"
    done = subprocess.run(
        launched(module, str(folder / "lines.json"), processes=2),
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes x 1 accumulated x 4 images") == len(NAMES)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_change_nothing(name, by_two, needs, shards, tmp_path):
    train(name, shards, tmp_path / "run", *LONGER, *needs(name), is_double=True)
    assert_close(by_two / name, tmp_path / "run")
    rows = metrics_of(by_two / name)
    assert len(rows) == 20
    if name in ("sparse", "sae"):
        assert any(row["dead_latents"] > 0 for row in rows)  # the auxiliary loss is at work
    if name == "vqvae":  # equal codes: their uses are whole numbers
        counts = final_weights(by_two / name)["bottleneck.counts"]
        assert counts.dtype == torch.float64 and (counts > 0).sum() > 4
