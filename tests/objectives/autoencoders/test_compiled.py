"""Every autoencoder compiles to one graph, with both backbones, for any progress."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.objectives.autoencoders.recipes import NAMES

SAME_GRAPH = ("beta_vae", "vqvae2")
"""they have the parts of vae and vqvae"""
OTHERS = [name for name in NAMES if name not in SAME_GRAPH]


@pytest.mark.parametrize(
    "names",
    [OTHERS[:4], OTHERS[4:], pytest.param(SAME_GRAPH, marks=pytest.mark.fault)],
    ids=" ".join,
)
def test_one_graph_for_any_progress(names):
    words = [sys.executable, "-m", "tests.objectives.autoencoders.compiled", *names]
    path = {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(names)
