"""Fixtures of the tests of `mae bench` and of `benchmarks/`: configs and shards."""

import pytest

from mae.data.indexing import build_manifest
from mae.objectives.registry import OBJECTIVES

TOY = """\
objective: toy
data: {img_size: 16, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
train: {batch_size: 4, num_processes: 2}
log: {every: 2, wandb: false}
"""
CLASSIFIER = """\
objective: classifier
model:
  encoder: vit_tiny_patch16_224
  encoder_kwargs: {embed_dim: 32, depth: 2, num_heads: 2}
  patch_size: 4
data: {img_size: 16}
finetune: {num_classes: 3}
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Config file of the objective in `tests.toy`, which the package does not know."""
    monkeypatch.setitem(OBJECTIVES, "toy", "tests.toy")
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return path


@pytest.fixture
def classifier(tmp_path):
    """Config file of a tiny classifier."""
    path = tmp_path / "classifier.yaml"
    path.write_text(CLASSIFIER)
    return path


@pytest.fixture(scope="session")
def loader_shards(tmp_path_factory, make_shards):
    """Shards of 24 labelled images."""
    return make_shards(tmp_path_factory.mktemp("shards"), 24, size=(60, 80))


@pytest.fixture(scope="session")
def loader_manifest(loader_shards):
    return build_manifest([loader_shards])


@pytest.fixture(scope="session")
def short_shards(tmp_path_factory, make_shards):
    """Shards of 24 smaller images."""
    return make_shards(tmp_path_factory.mktemp("short"), 24, size=(40, 50), labels=False)
