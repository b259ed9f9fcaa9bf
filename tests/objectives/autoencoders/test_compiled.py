"""Every autoencoder compiles to one graph, with both backbones, for any progress."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.objectives.autoencoders.recipes import NAMES

APART = ("vqvae", "aae", "kl", "sae")
"""the least alike of them"""


@pytest.mark.parametrize(
    "names",
    [
        APART,
        pytest.param([name for name in NAMES if name not in APART], marks=pytest.mark.fault),
    ],
    ids=" ".join,
)
def test_one_graph_for_any_progress(names):
    words = [sys.executable, "-m", "tests.objectives.autoencoders.compiled", *names]
    path = {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(names)
