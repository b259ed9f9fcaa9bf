"""Finished runs of the small recipes, each made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.objectives.autoencoders.recipes import NAMES, train

Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, shards) -> Runs:
    """`finished(name)`: folder of an undisturbed run in float32, evaluated; not to be changed."""
    folder, made = tmp_path_factory.mktemp("autoencoders"), set()

    def run_of(name: str) -> Path:
        if name not in made:
            assert name in NAMES
            more = [f"model.tokenizer={run_of('vqvae')}"] if name == "prior" else []
            evaluated = [f"data.val={shards}", "log.health_every=1", "log.panel_every=4"]
            train(name, shards, folder / name, *evaluated, *more)
            made.add(name)
        return folder / name

    return run_of


@pytest.fixture(scope="session")
def needs(finished) -> Callable[[str], list[str]]:
    """`needs(name)`: settings without which the recipe does not run: the prior's tokenizer."""
    return lambda name: [f"model.tokenizer={finished('vqvae')}"] if name == "prior" else []
