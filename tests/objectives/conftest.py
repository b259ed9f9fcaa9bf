"""Finished runs of the small recipes, each made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.objectives.autoencoders.recipes import NAMES, SOURCES, train
from tests.objectives.autoencoders.small import small_config
from tests.untrained import untrained_run

Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def token_encoder(tmp_path_factory) -> Path:
    """Run of a Vision Transformer with random weights."""
    config = small_config("ae", channels=3, backbone="vit")
    return untrained_run(tmp_path_factory.mktemp("encoder") / "vit", config)


def first_stage(name: str, run_of: Runs, token_encoder: Path) -> list[str]:
    """Setting that names the run which `name` is trained on, if any."""
    sources = {"prior": lambda: run_of("vqvae"), "sae": lambda: token_encoder}
    return [f"{SOURCES[name]}={sources[name]()}"] if name in SOURCES else []


@pytest.fixture(scope="session")
def finished(tmp_path_factory, shards, token_encoder) -> Runs:
    """`finished(name)`: folder of an undisturbed run in float32, evaluated; not to be changed."""
    folder, made = tmp_path_factory.mktemp("autoencoders"), set()

    def run_of(name: str) -> Path:
        if name not in made:
            assert name in NAMES
            evaluated = [f"data.val={shards}", "log.health_every=1", "log.panel_every=4"]
            train(
                name, shards, folder / name, *evaluated, *first_stage(name, run_of, token_encoder)
            )
            made.add(name)
        return folder / name

    return run_of


@pytest.fixture(scope="session")
def needs(finished, token_encoder) -> Callable[[str], list[str]]:
    """`needs(name)`: settings without which the recipe does not run: its first stage."""
    return lambda name: first_stage(name, finished, token_encoder)
