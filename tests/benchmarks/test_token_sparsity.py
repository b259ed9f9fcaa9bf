"""Benchmark of sparse autoencoders on tokens: valid runs, the printed line, shares of time."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.autoencoders.comparison import RECIPES
from benchmarks.token_sparsity import ENCODERS, SHOWN, settings, step_speed, summary
from mae.config.loading import load_config
from mae.objectives.sae.declaration import sae_model
from mae.objectives.sae.model import TokenSparseAutoencoder
from tests.objectives.sae.small import small_sae


@pytest.mark.parametrize("name", ENCODERS)
def test_every_run_is_valid_and_takes_the_given_settings(name, tmp_path):
    given = {"train": ["a.tar"], "test": ["b.tar"], "run": Path("run"), "images": 7}
    args = Namespace(**given, settings=["model.k=8"])
    config = load_config(RECIPES / "sae.yaml", settings(args, name, 2, tmp_path))
    model = sae_model(config)
    assert (model.k, model.untrained) == (8, name == "untrained")
    assert (config.train.seed, config.log.health_images) == (2, 7)


def test_a_line_shows_every_figure_of_all_seeds():
    rows = [{**dict.fromkeys(SHOWN, value), "tokens": 640} for value in (0.25, 0.5)]
    line = summary("trained", rows)
    assert line.startswith("trained    explained 0.250 0.500; top-k PCA 0.250 0.500;")
    assert line.endswith("640 tokens")


def test_the_encoder_takes_a_share_of_a_step(monkeypatch):
    config = load_config(RECIPES / "sae.yaml", ["output=x", "data.train=x", "model.encoder=x"])
    model: TokenSparseAutoencoder = small_sae()
    monkeypatch.setattr("benchmarks.token_sparsity.load_pretrained", lambda run: (config, model, 0))
    speed = step_speed(Path())
    assert speed.tokens_per_second > 0 and 0 < speed.encoder_share < 1
