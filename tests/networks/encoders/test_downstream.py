"""What uses encoders beside masked autoencoding: classifiers, frozen tokens, autoencoders."""

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mae.anomaly.patch_features import vit_features
from mae.base.errors import UserError
from mae.config.sections import Config, DataConfig, InitConfig
from mae.networks.encoders.registry import adapter_of
from mae.networks.vit import encoder_shape
from mae.objectives.autoencoders.backbones import build_backbone, encode_map
from mae.objectives.base import FirstStage, total_loss
from mae.objectives.classifier.model import Classifier
from mae.objectives.kl.frozen_features import PatchFeatures
from mae.objectives.mae.implementation import start_mae
from mae.objectives.mae.model import MaskedAutoencoder
from mae.objectives.registry import config_type, implementation
from mae.objectives.sae.tokens import token_encoder
from mae.training.checkpoint.trained import build_objective
from tests.export.models import STATE
from tests.networks.encoders.option_sets import FEW, tiny_arguments
from tests.pretrained_weights.models import shaken
from tests.untrained import NUMBERS, tiny_config

DATA = DataConfig(train=("gone.tar",), mean=NUMBERS, std=NUMBERS, img_size=(16, 24))
IMAGES = torch.randint(
    0, 256, (3, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def config_of(name: str, objective: str = "mae", **sections: Any) -> Config:
    config = tiny_config(objective, data=DATA, **sections).model_dump(mode="json")
    config["model"] |= {"encoder": name, "encoder_kwargs": tiny_arguments(name)}
    return config_type(objective).model_validate(config)


def mae_of(name: str) -> tuple[Config, MaskedAutoencoder]:
    config = config_of(name)
    torch.manual_seed(0)
    model = build_objective(config).eval()
    assert isinstance(model, MaskedAutoencoder)
    return config, model


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_classifiers_learn_by_layers_and_keep_their_weights(name, pool):
    has_class_token = encoder_shape(mae_of(name)[1].encoder).has_class_token
    finetune = {"num_classes": 3, "global_pool": pool, "layer_decay": 0.5, "drop_path": 0.0}
    finetune |= {"mixup": 0.0, "cutmix": 0.0}
    config = config_of(name, "classifier", finetune=finetune)
    if pool == "token" and not has_class_token:
        with pytest.raises(UserError, match="no class token: set"):
            build_objective(config)
        return
    model = build_objective(config).train()
    assert isinstance(model, Classifier)
    noise = model.draw(IMAGES, torch.arange(3), torch.tensor([0, 1, 2]))
    total_loss(model(IMAGES, noise, torch.zeros(()))).backward()
    groups = implementation("classifier").parameter_groups(model, config)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    by_name = {key: scales[id(p)] for key, p in model.encoder.named_parameters()}
    head = adapter_of(model.encoder).head
    assert by_name[f"{head}.weight"] == 1 and by_name["patch_embed.proj.weight"] == 0.125
    assert by_name["blocks.1.attn.proj.weight"] == 0.5
    if pool == "avg":
        assert not any(key.startswith("fc_norm") and scale != 1 for key, scale in by_name.items())
    model.eval()
    logits = model.logits(IMAGES)
    theirs = timm.create_model(
        name,
        num_classes=3,
        global_pool=pool,
        **tiny_arguments(name),
        **adapter_of(model.encoder).timm_arguments(model.encoder),
    ).eval()
    theirs.load_state_dict(model.encoder.state_dict(), strict=True)
    assert torch.equal(theirs(model.normalize_images(IMAGES)), logits)


@torch.no_grad()
@pytest.mark.parametrize("name", FEW)
def test_frozen_tokens(name):
    config, model = mae_of(name)
    stage = FirstStage(config, model, "", STATE)
    tokens = model.encode(IMAGES).tokens
    assert tokens is not None and tokens.shape == (3, 24, 32)
    maps = PatchFeatures(stage)(IMAGES.float() / 255)
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)
    anomalies = vit_features(model.encoder, NUMBERS, NUMBERS, 8, [1, 2], "x", "y")
    widths = model.adapter.shape(model.encoder).widths
    rows, columns = anomalies.rule.stride
    assert anomalies.maps(IMAGES).shape == (3, sum(widths), 16 // rows, 24 // columns)
    settings = config_type("sae").model_validate({"objective": "sae", "model": {"layer": 1}})
    cut = token_encoder(stage, settings).encode(IMAGES).tokens
    (first,) = model.adapter.maps(model.encoder, model.normalize_images(IMAGES), [0])
    assert cut is not None and torch.equal(cut, first.flatten(2).transpose(1, 2))


def test_an_autoencoder_with_rotary_positions():
    name = "vit_small_patch16_rope_mixed_ape_224"
    model = {
        "backbone": "vit",
        "encoder": name,
        "encoder_kwargs": tiny_arguments(name),
        "patch_size": 4,
        "decoder_depth": 1,
    }
    settings = {"objective": "ae", "model": model, "data": DATA}
    backbone = build_backbone(config_type("ae").model_validate(settings))
    features = encode_map(backbone.encoder, torch.randn(2, 3, 16, 24))
    assert features.shape == (2, *backbone.encoded) == (2, 32, 4, 6)
    assert backbone.decoder(features).shape == (2, 3, 16, 24)


def test_a_hierarchical_encoder_goes_on_with_its_fusion_and_decoder(tmp_path):
    """Names of a checkpoint: what is between the stages and the decoder is the decoder's."""
    _, model = mae_of("hiera_tiny_224")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    _, other = mae_of("hiera_tiny_224")
    other = shaken(other, 5)
    start_mae(other, InitConfig.model_validate({"from": f"{tmp_path}/model.safetensors"}), DATA)
    found = other.state_dict()
    assert any(key.startswith("decoder.fusion.") for key in found)
    assert all(torch.equal(found[key], tensor) for key, tensor in model.state_dict().items())
