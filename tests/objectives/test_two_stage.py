"""Frozen first stage, here of a prior: kept once in its run, which needs the source no more."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mae.cli import main as mae
from mae.objectives.base import FirstStage
from mae.objectives.mae.model import MaskedAutoencoder
from mae.objectives.prior.model import CodePrior
from mae.pretrain import main
from mae.pretrained_weights.architecture import set_norm_eps
from mae.pretrained_weights.opened import open_model
from mae.training.checkpoint.trained import (
    FROZEN,
    build_objective,
    keep_first_stage,
    load_plain,
    load_pretrained,
)
from tests.objectives.autoencoders.recipes import stopped_after, train
from tests.runs import final_weights, same_weights
from tests.untrained import tiny_config


@pytest.fixture
def source(finished, tmp_path):
    return shutil.copytree(finished("vqvae"), tmp_path / "vqvae")


def begin(shards, source, tmp_path, *settings):
    """A prior's run, stopped after step 3."""
    with stopped_after(3):
        given = (f"model.tokenizer={source}", *settings)
        train("prior", shards, tmp_path / "run", *given, code=75)
    return tmp_path / "run"


def error_of(capsys) -> str:
    """The one line of the error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_is_kept_once_and_not_in_checkpoints(finished):
    kept = load_file(finished("prior") / FROZEN / "model.safetensors")
    assert same_weights(kept, final_weights(finished("vqvae")))
    assert not any("bottleneck" in name for name in final_weights(finished("prior")))
    config, model, state = load_plain(finished("prior") / FROZEN)
    assert config.objective == "vqvae" and state.step == 8
    assert not {"..", "/"} & set(str(config.data.train)) and not model.training


def test_a_run_trains_on_and_opens_without_its_source(finished, source, shards, tmp_path):
    run = begin(shards, source, tmp_path)
    shutil.rmtree(source)
    train("prior", shards, run, f"model.tokenizer={source}")
    assert same_weights(final_weights(run), final_weights(finished("prior")))
    moved = run.rename(tmp_path / "moved")
    shutil.copytree(moved, tmp_path / "copy")
    for folder in (moved, max((tmp_path / "copy" / "checkpoints").glob("step-*"))):
        _, prior, _ = load_pretrained(folder)
        assert isinstance(prior, CodePrior)
        assert prior.sample(torch.arange(2)).shape == (2, 3, 16, 16)


def test_commands_use_the_copy_of_a_moved_run(source, shards, tmp_path, capsys):
    run = begin(shards, source, tmp_path).rename(tmp_path / "moved")
    shutil.rmtree(source)
    assert mae(["sample", str(run), "--count", "2"]) == 0
    assert mae(["inspect-batch", str(run), "1"]) == 0
    assert mae(["export", str(run), str(tmp_path / "out"), "--images", "noise"]) == 0
    shutil.rmtree(run)
    _, prior, _ = load_plain(tmp_path / "out")
    assert isinstance(prior, CodePrior) and len(prior.sample(torch.arange(2))) == 2
    shutil.rmtree(tmp_path / "out" / FROZEN)
    capsys.readouterr()
    assert mae(["sample", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'out' / FROZEN}: missing: the tokenizer that" in error_of(capsys)


def test_another_source_is_refused(source, shards, tmp_path, capsys):
    run = begin(shards, source, tmp_path)
    train("vqvae", shards, tmp_path / "other", "train.seed=5")
    train("prior", shards, run, f"model.tokenizer={tmp_path / 'other'}", code=2)
    *_, line = capsys.readouterr().err.splitlines()
    assert "is not what" in line and f"go on with {run / 'config.yaml'}" in line
    train("prior", shards, run, f"model.tokenizer={source}")
    before = f"init.from={run}"
    new = [f"model.tokenizer={tmp_path / 'other'}", before]
    train("prior", shards, tmp_path / "new", *new, code=2)
    assert "was trained on another tokenizer" in capsys.readouterr().err
    train("prior", shards, tmp_path / "new", f"model.tokenizer={source}", before)


def test_a_run_that_has_not_begun_goes_on_with_its_copy(source, shards, tmp_path, capsys):
    run = begin(shards, source, tmp_path)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(source)
    assert main([str(run / "config.yaml")]) == 0
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / FROZEN)
    capsys.readouterr()
    assert main([str(run / "config.yaml")]) == 2
    assert f"model.tokenizer: {source}" in error_of(capsys)


def file_of_encoder(folder, **sizes):
    """File of an encoder's weights alone, named as the paper's release."""
    kwargs = {"depth": 1, **sizes}
    model = {"encoder": "vit_tiny_patch16_224", "encoder_kwargs": kwargs, "patch_size": 4}
    built = build_objective(tiny_config(model=model))
    assert isinstance(built, MaskedAutoencoder)
    file = folder / "mae_pretrain_vit_tiny.pth"
    torch.save({"model": built.encoder.state_dict()}, file)
    return file


def test_a_property_that_a_file_does_not_record_is_asked_for_in_a_way_that_exists(
    shards, tmp_path, capsys
):
    file = file_of_encoder(tmp_path, embed_dim=32, num_heads=2)
    train("sae", shards, tmp_path / "run", f"model.encoder={file}", code=2)
    line = error_of(capsys)
    assert f"give --num-heads (options of `mae export {file} FOLDER --format timm`" in line
    command = ["export", str(file), str(tmp_path / "timm"), "--format", "timm"]
    assert mae([*command, "--num-heads", "2", "--images", "noise"]) == 0
    train("sae", shards, tmp_path / "run", f"model.encoder={tmp_path / 'timm'}")


def test_an_encoder_without_decoder_of_another_epsilon_is_kept_as_it_is(tmp_path):
    file = file_of_encoder(tmp_path, embed_dim=192, num_heads=3)
    opened = open_model(file).objective
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    set_norm_eps(opened, 0.1)
    opened.first_stage = FirstStage(open_model(file).config, opened, "")
    keep_first_stage(opened, tmp_path)
    _, again, _ = load_plain(tmp_path / FROZEN)
    assert same_weights(again.state_dict(), opened.state_dict())
    with torch.no_grad():
        tokens, expected = again.encode(images).tokens, opened.encode(images).tokens
    assert tokens is not None and expected is not None and torch.equal(tokens, expected)


def test_assumptions_and_the_licence_of_its_weights_are_printed_kept_and_on_the_card(
    shards, tmp_path, capsys
):
    file = file_of_encoder(tmp_path, embed_dim=192, num_heads=3)
    run, given = tmp_path / "run", (f"model.encoder={file}", "model.aux_k=4")
    with stopped_after(3):
        printed = train("sae", shards, run, *given, code=75)
    assert "encoder licence CC-BY-NC-4.0: not for commercial use" in printed
    assert "encoder assumed: " in printed and "mae export" in printed
    file.unlink()
    assert "encoder licence CC-BY-NC-4.0" in train("sae", shards, run, *given)
    for form in ("plain", "saelens"):
        out = tmp_path / form
        assert mae(["export", str(run), str(out), "--format", form, "--images", "noise"]) == 0
        card = (out / "README.md").read_text()
        assert "license: cc-by-nc-4.0\nnon_commercial: true" in card
        assert f"frozen encoder with weights of `{file.name}`" in card
        assert "It forbids commercial use" in card and "no other weights were used" not in card
        assert "assumed: " in card and str(tmp_path) not in card


def test_a_missing_or_damaged_copy_is_refused_in_one_line(source, shards, tmp_path, capsys):
    run = begin(shards, source, tmp_path)
    file = run / FROZEN / "model.safetensors"
    tensors, whole = load_file(file), file.read_bytes()
    tensors["bottleneck.codebook"] = tensors["bottleneck.codebook"] + 1
    config_file = str(run / "config.yaml")

    def refused(message: str) -> None:
        for command in (["sample", str(run)], ["pretrain", config_file]):
            capsys.readouterr()
            assert mae(command) == 2
            assert message in error_of(capsys)

    save_file(tensors, file)
    refused(f"{run / FROZEN} is not what the run was started with")
    file.write_bytes(whole[:1000])
    refused(f"model.tokenizer: {run / FROZEN}: the weights do not fit this model")
    file.write_bytes(whole)
    described = (run / FROZEN / "config.json").read_text()
    (run / FROZEN / "config.json").write_text(described[:100])
    refused("config.json")
    (run / FROZEN / "config.json").unlink()
    refused(f"{run / FROZEN}: missing: the tokenizer that {run} was trained on")
    (run / FROZEN / "config.json").write_text(json.dumps(json.loads(described)))
    assert main([config_file]) == 0
