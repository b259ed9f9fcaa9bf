"""Tokens of a layer: equal to timm's intermediates; the whole encoder is kept and shared."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mae.config.sections import Config
from mae.objectives import two_stage
from mae.objectives.base import FirstStage
from mae.objectives.mae.model import MaskedAutoencoder
from mae.objectives.registry import config_type
from mae.objectives.sae.model import TokenSparseAutoencoder
from mae.objectives.sae.tokens import token_encoder as encoder_up_to
from mae.objectives.two_stage import build_first_stage
from mae.training.checkpoint.trained import FROZEN, build_objective, load_pretrained
from tests.objectives.autoencoders.recipes import train
from tests.objectives.autoencoders.small import pictures
from tests.runs import final_weights, same_weights
from tests.untrained import tiny_config, untrained_run


def mae_of(config: Config) -> MaskedAutoencoder:
    built = build_objective(config)
    assert isinstance(built, MaskedAutoencoder)
    return built


def sae_config(layer: int, **model) -> Config:
    settings = {"objective": "sae", "model": {"layer": layer, **model}}
    return config_type("sae").model_validate(settings)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_tokens_are_those_of_timm_after_this_block(layer):
    config = tiny_config()
    whole = mae_of(config).eval()
    cut = encoder_up_to(FirstStage(config, whole, ""), sae_config(layer))
    vit, images = whole.encoder, pictures(3, 3)
    tokens = cut.encode(images).tokens
    seen: list[Tensor] = []
    if layer:
        vit.blocks[layer - 1].register_forward_hook(lambda module, given, made: seen.append(made))
    last = vit.forward_features(whole.normalize_images(images))
    expected = (seen[0] if layer else last)[:, 1:]
    assert tokens is not None and torch.equal(tokens, expected)
    assert len(vit.blocks) == 2  # the first stage stays whole
    shared = {one.data_ptr() for one in whole.parameters()}
    assert {one.data_ptr() for one in cut.parameters()} <= shared


def test_an_untrained_encoder_is_drawn_once_kept_and_identified_by_its_checksum(
    shards, tmp_path, monkeypatch
):
    source = untrained_run(tmp_path / "encoder", tiny_config())
    trained, untrained = (
        build_first_stage(sae_config(1, encoder=source, untrained=one)) for one in (False, True)
    )
    fresh = build_objective(tiny_config()).state_dict()
    assert same_weights(untrained.model.state_dict(), fresh)
    assert not same_weights(trained.model.state_dict(), fresh)
    assert untrained.sha256 != trained.sha256 and not untrained.lines
    settings = [f"model.encoder={source}", "model.untrained=true"]
    train("sae", shards, tmp_path / "run", *settings)
    kept = load_file(tmp_path / "run" / FROZEN / "model.safetensors")
    assert same_weights(kept, fresh)
    monkeypatch.setattr(two_stage, "build_objective", lambda config: pytest.fail("drawn again"))
    _, model, _ = load_pretrained(tmp_path / "run")
    assert isinstance(model, TokenSparseAutoencoder) and model.first_stage is not None
    assert model.first_stage.sha256 == untrained.sha256


def test_a_run_on_a_middle_layer_keeps_the_whole_encoder_and_opens_without_it(shards, tmp_path):
    encoder = untrained_run(tmp_path / "encoder", tiny_config())
    train("sae", shards, tmp_path / "run", f"model.encoder={encoder}", "model.layer=1")
    encoder.rename(tmp_path / "gone")
    _, model, _ = load_pretrained(tmp_path / "run")
    assert isinstance(model, TokenSparseAutoencoder) and model.first_stage is not None
    kept = model.first_stage.model
    assert isinstance(kept, MaskedAutoencoder) and len(kept.encoder.blocks) == 2
    assert not any(name.startswith("frozen") for name in final_weights(tmp_path / "run"))
    assert model.tokens(pictures(2, 3)).shape == (2, 16, 32)


def test_another_encoder_is_refused_in_one_line(shards, tmp_path, capsys):
    encoder = untrained_run(tmp_path / "encoder", tiny_config())
    other = untrained_run(tmp_path / "other", tiny_config(train={"seed": 5}))
    train("sae", shards, tmp_path / "run", f"model.encoder={encoder}")
    capsys.readouterr()
    train("sae", shards, tmp_path / "run", f"model.encoder={other}", code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not what the run was started with" in line


def test_weights_for_tokens_of_another_layer_or_encoder_are_refused(shards, tmp_path, capsys):
    encoder = untrained_run(tmp_path / "encoder", tiny_config())
    other = untrained_run(tmp_path / "other", tiny_config(train={"seed": 5}))
    own, before = f"model.encoder={encoder}", f"init.from={tmp_path / 'run'}"
    train("sae", shards, tmp_path / "run", own, "model.layer=1")
    for settings, message in (
        ([own, "model.layer=2"], "was trained with model.layer=1, not 2"),
        ([own, "model.layer=1", "model.untrained=true"], "model.untrained=False, not True"),
        ([f"model.encoder={other}", "model.layer=1"], "was trained on another encoder"),
    ):
        capsys.readouterr()
        train("sae", shards, tmp_path / "new", *settings, before, code=2)
        assert message in capsys.readouterr().err
    train("sae", shards, tmp_path / "new", own, "model.layer=1", before)


def test_pooled_features_are_of_latents_reconstructions_and_tokens(finished):
    _, model, _ = load_pretrained(finished("sae"))
    assert isinstance(model, TokenSparseAutoencoder)
    with torch.no_grad():
        pooled = model.encode(pictures(4, 3)).pooled
    assert {name: list(one.shape) for name, one in pooled.items()} == {
        "latent": [4, 128],
        "reconstruction": [4, 16],
        "token": [4, 16],
    }
    torch.testing.assert_close(pooled["token"], model.tokens(pictures(4, 3)).mean(dim=1))
