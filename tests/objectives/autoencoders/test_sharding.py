"""Weights of autoencoders are not sharded: refused in one line."""

import pytest

from mae.objectives.registry import declaration
from mae.pretrain import main
from tests.objectives.autoencoders.recipes import NAMES, SOURCES, words


@pytest.mark.parametrize("name", NAMES)
def test_fsdp_is_refused_before_training(name, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    given = [f"{SOURCES[name]}=gone"] if name in SOURCES else []
    assert main(words(name, shards, tmp_path / "run", *given)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"objective {name} fits on one GPU and is not sharded" in line
    assert not (tmp_path / "run").exists()


def test_only_autoencoders_are_refused():
    assert declaration("mae").shardable and declaration("classifier").shardable
