"""The tokenizer of a prior: kept in its own run, which needs the other no more."""

import shutil

import pytest
import torch

from mae.objectives.prior.model import CodePrior
from mae.pretrain import main
from mae.training.checkpoint.trained import load_pretrained
from tests.objectives.autoencoders.recipes import stopped_after, train
from tests.runs import final_weights, same_weights


@pytest.fixture
def tokenizer(finished, tmp_path):
    return shutil.copytree(finished("vqvae"), tmp_path / "vqvae")


def begin(shards, tokenizer, tmp_path, step=3, *settings):
    """A prior's run, stopped after `step`."""
    with stopped_after(step):
        given = (f"model.tokenizer={tokenizer}", *settings)
        train("prior", shards, tmp_path / "run", *given, code=75)
    return tmp_path / "run"


def test_a_prior_trains_on_and_opens_without_its_tokenizers_run(
    finished, tokenizer, shards, tmp_path
):
    run = begin(shards, tokenizer, tmp_path)
    shutil.rmtree(tokenizer)
    train("prior", shards, run, f"model.tokenizer={tokenizer}")
    assert same_weights(final_weights(run), final_weights(finished("prior")))
    _, prior, _ = load_pretrained(run)
    assert isinstance(prior, CodePrior)
    assert prior.sample(torch.arange(2)).shape == (2, 3, 16, 16)


def test_a_tokenizer_is_never_changed_by_the_prior(finished):
    before, after = final_weights(finished("vqvae")), final_weights(finished("prior"))
    assert all(torch.equal(after[f"tokenizer.model.{key}"], one) for key, one in before.items())


def test_another_tokenizer_is_refused(tokenizer, shards, tmp_path, capsys):
    run = begin(shards, tokenizer, tmp_path)
    train("vqvae", shards, tmp_path / "other", "train.seed=5")
    train("prior", shards, run, f"model.tokenizer={tmp_path / 'other'}", code=2)
    *_, line = capsys.readouterr().err.splitlines()
    assert "is not what" in line and f"go on with {run / 'config.yaml'}" in line
    train("prior", shards, run, f"model.tokenizer={tokenizer}")


def test_a_run_without_a_checkpoint_needs_its_tokenizer(tokenizer, shards, tmp_path, capsys):
    run = begin(shards, tokenizer, tmp_path)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(tokenizer)
    capsys.readouterr()
    assert main([str(run / "config.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.tokenizer" in line and "no run here" in line
