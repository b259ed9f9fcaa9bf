"""Killed with signal 9 and started again, every autoencoder ends with the same bits."""

import pytest

from tests.objectives.autoencoders.recipes import NAMES, train, words
from tests.runs import final_weights, launched, metrics_of, run_and_kill, same_weights

REAL = ("vqvae", "prior", "sae")
"""those with state besides weights; test_rails resumes all others after a stop"""
LONGER = ["train.epochs=9", "train.checkpoint_every=4"]
"""59 steps"""


@pytest.mark.parametrize(
    "name",
    [name if name in REAL else pytest.param(name, marks=pytest.mark.fault) for name in NAMES],
)
def test_killed_it_resumes_bit_for_bit(name, needs, shards, tmp_path):
    given, folder = [*LONGER, *needs(name)], tmp_path / "run"
    line = launched("mae.pretrain", *words(name, shards, folder, *given))
    run_and_kill(line, folder / "metrics.jsonl", after_step=9, is_launcher=False)
    assert 9 <= metrics_of(folder)[-1]["step"] < 59
    assert "resumed at step" in train(name, shards, folder, *given)
    train(name, shards, tmp_path / "whole", *given)
    assert len(metrics_of(folder)) == 59
    assert same_weights(final_weights(folder), final_weights(tmp_path / "whole"))
