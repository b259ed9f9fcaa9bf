"""Weights with rotary positions: releases, transformers, timm; none of the real ones is here."""

import json
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from mae.base.errors import UserError
from mae.config.sections import DataConfig, InitConfig
from mae.networks.vit import build_encoder
from mae.objectives.mae.implementation import start_mae
from mae.objectives.mae.model import MaskedAutoencoder
from mae.pretrained_weights.description import mlp_ratio
from mae.pretrained_weights.opened import open_model
from tests.networks.encoders.option_sets import tiny_arguments
from tests.networks.encoders.test_rope_names import dinov3
from tests.pretrained_weights.models import DECODER, shaken, some_images

NAME = "vit_small_patch16_dinov3_qkvb"
MIXED = "vit_small_patch16_rope_mixed_224"


def rope_mae(name: str = NAME, seed: int = 0, **arguments) -> MaskedAutoencoder:
    sizes: dict[str, Any] = {
        "img_size": (32, 32),
        "patch_size": 8,
        **tiny_arguments(name),
        **arguments,
    }
    torch.manual_seed(seed)
    return MaskedAutoencoder(build_encoder(name, **sizes), **DECODER).eval()


def start(model, source, **permissions):
    init = InitConfig.model_validate({"from": str(source), **permissions})
    return start_mae(model, init, DataConfig())


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_dinov3s_release_is_counted_key_by_key(tmp_path, prefix):
    source, target = shaken(rope_mae(), 1), rope_mae(seed=2)
    tensors = {f"{prefix}{key}": one for key, one in dinov3(source.encoder.state_dict()).items()}
    file = tmp_path / "dinov3_vits16_pretrain_lvd1689m-0.pth"
    torch.save(tensors, file)
    done = start(target, file)
    own = target.encoder.state_dict()
    assert done.record["keys_loaded"] == len(own)
    assert done.lines[0].startswith(f"init    {len(own)} of {len(own)} encoder tensors from")
    assert len(done.record["skipped"]) == 7
    assert done.record["license"] == "dinov3-license" and not done.record["non_commercial"]
    assert any("licence dinov3-license: its terms" in line for line in done.lines)
    for key, tensor in source.encoder.state_dict().items():
        assert torch.equal(tensor, own[key]), key


@pytest.mark.parametrize("is_gated", [False, True])
def test_transformers_dinov3_in_a_folder(tmp_path, is_gated):
    config = DINOv3ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        num_register_tokens=3,
        image_size=32,
        patch_size=8,
        use_gated_mlp=is_gated,
        hidden_act="silu" if is_gated else "gelu",
    )
    theirs = shaken(DINOv3ViTModel(config), 1).eval()
    theirs.save_pretrained(tmp_path)
    images = some_images()
    with torch.no_grad():
        expected = theirs(images).last_hidden_state
    opened = open_model(tmp_path)
    found = opened.objective.encode(images)
    assert found.tokens is not None
    torch.testing.assert_close(found.tokens, expected[:, 4:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooled["cls"], expected[:, 0], rtol=1e-5, atol=1e-5)
    kind = "vit_small_plus_patch16_dinov3_qkvb" if is_gated else NAME
    model = rope_mae(kind, num_reg_tokens=3, mlp_ratio=3.0)
    start(model, tmp_path)
    found = model.encode(images).tokens
    torch.testing.assert_close(found, expected[:, 4:], rtol=1e-5, atol=1e-5)


def test_timms_weights_at_another_size(monkeypatch):
    """The size needs no permission: nothing is resampled, but it is said."""
    create = timm.create_model

    def without_network(name, pretrained=False, **arguments):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return create(name, pretrained=False, **arguments)

    monkeypatch.setattr(timm, "create_model", without_network)
    torch.manual_seed(0)
    encoder = build_encoder("vit_small_patch16_dinov3", img_size=(32, 48))
    target = MaskedAutoencoder(encoder, **DECODER)
    done = start(target, "timm:vit_small_patch16_dinov3.lvd1689m")
    assert done.record["license"] == "dinov3-license"
    assert "init    rotary positions of 2 x 3 patches; trained with 16 x 16" in done.lines


def test_frequencies_of_mixed_rotations_are_weights(tmp_path):
    source, target = rope_mae(MIXED, seed=1), rope_mae(MIXED, seed=2)
    arguments = {"img_size": 32, "patch_size": 8, **tiny_arguments(MIXED)}
    config = {"architecture": MIXED, "num_classes": 0, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = source.encoder.state_dict()
    save_file(tensors, tmp_path / "model.safetensors")
    start(target, tmp_path)
    assert torch.equal(target.encoder.state_dict()["rope.freqs"], tensors["rope.freqs"])
    images = some_images()
    found = open_model(tmp_path).objective.encode(images)
    expected = source.encode(images)
    assert torch.equal(found.pooled["cls"], expected.pooled["cls"])
    del tensors["rope.freqs"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks rope\.freqs of model\.encoder"):
        start(target, tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            NAME,
            {"rope_temperature": 10.0},
            r"temperature of its rotary positions is 100\.0, .* 10\.0",
        ),
        (
            NAME,
            {"rope_rotate_half": False},
            "rotate_half of its rotary positions is True, .* not set",
        ),
    ],
)
def test_other_rotations_are_refused(name, arguments, message, tmp_path):
    """No tensor holds them: the weights would load, and give other features."""
    config = {"architecture": name, "num_classes": 0}
    config["model_args"] = {"img_size": 32, "patch_size": 8, **tiny_arguments(name)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(rope_mae(name).encoder.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        start(rope_mae(name, **arguments), tmp_path)


def test_other_architectures_are_refused(tmp_path):
    save_file(rope_mae().encoder.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"q_bias \(and 3 more\) has no place in model.encoder"):
        start(rope_mae("vit_small_patch16_dinov3"), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"lacks pos_embed: .*config\.json beside them"):
        open_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("hidden", "width"), [(1536, 384), (2048, 768), (683, 256), (100, 96)])
def test_ratios_give_the_width_of_the_mlp(hidden, width):
    assert int(width * mlp_ratio(hidden, width)) == hidden
