"""Perceptual distance and alignment in a frozen encoder, which a run keeps."""

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mae.objectives.autoencoders.backbones import build_backbone
from mae.objectives.base import FirstStage, Output, total_loss
from mae.objectives.kl.frozen_features import (
    Margins,
    PatchFeatures,
    alignment_loss,
    feature_distance,
)
from mae.objectives.kl.model import KlAutoencoder
from mae.objectives.registry import implementation
from mae.training.checkpoint.trained import FROZEN, load_pretrained
from tests.objectives.autoencoders.recipes import assert_close, stopped_after, train
from tests.objectives.autoencoders.small import DONE, build, pictures, seeds, small_config
from tests.runs import final_weights, metrics_of, same_weights
from tests.untrained import tiny_config, untrained_run

USED = ["model.perceptual=0.5", "model.align=0.1", "model.align_distance_margin=0"]
NOTHING = Margins(0.0, 0.0)


def stage() -> FirstStage:
    """Tiny MAE on images of 16 px, three channels."""
    config = tiny_config()
    torch.manual_seed(2)
    return FirstStage(config, implementation("mae").build(config).eval(), "")


def with_features(**model: float) -> KlAutoencoder:
    """Small KL autoencoder with that encoder."""
    settings: dict[str, Any] = {"stages": 2, "depth": 1, **model}
    plain = build("kl", channels=3, **settings)
    config = small_config("kl", channels=3, **settings)
    torch.manual_seed(0)
    backbone = build_backbone(config, double_z=True)
    return KlAutoencoder(config, backbone, plain.bottleneck, stage()).eval()


def test_features_are_those_of_the_encoder():
    frozen, images = stage(), pictures(3, 3)
    features = PatchFeatures(frozen)(images.float() / 255)
    expected = frozen.model.encode(images).tokens
    assert expected is not None and len(features) == 2
    torch.testing.assert_close(features[-1].flatten(2).transpose(1, 2), expected)
    larger = F.interpolate(images.float() / 255, scale_factor=2)
    assert PatchFeatures(frozen)(larger)[-1].shape == (3, 32, 4, 4)


def test_distance_and_alignment_by_hand():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 5, 3, 3, generator=generator) for _ in range(2))
    cosine = F.cosine_similarity(one, other, dim=1)
    torch.testing.assert_close(feature_distance([one, one], [one, other]), (1 - cosine).mean())
    latents = torch.randn(2, 4, 3, 3, generator=generator)
    expected = 0.0
    for z, f in zip(latents.flatten(2), other.flatten(2), strict=True):
        z, f = z.T, f.T  # [9 d]
        for i in range(9):
            for j in range(9):
                pair = F.cosine_similarity(z[i], z[j], dim=0) - F.cosine_similarity(f[i], f[j], 0)
                expected += F.relu(pair.abs() - 0.25) / (2 * 81)
    expected += F.relu(1 - 0.5 - cosine).mean()
    found = alignment_loss(latents, one, other, Margins(0.5, 0.25))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        alignment_loss(one, one, one, NOTHING), torch.tensor(0.0), rtol=0, atol=1e-6
    )


def test_gradients_reach_the_networks_and_not_the_frozen_encoder():
    model, images = with_features(perceptual=0.5, align=0.1), pictures(3, 3)
    output: Output = model(images, model.draw(images, seeds(3)), DONE)
    assert output.losses["perceptual"] > 0 and output.losses["alignment"] > 0
    total_loss(output).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("features.")), name
    assert not any(name.startswith("features.") for name in model.state_dict())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Untrained run of a tiny MAE."""
    return untrained_run(tmp_path_factory.mktemp("encoder") / "mae", tiny_config())


def test_a_run_keeps_its_encoder_and_resumes_bit_for_bit(encoder, shards, tmp_path):
    source = shutil.copytree(encoder, tmp_path / "mae")
    given = [f"model.frozen={source}", *USED]
    train("kl", shards, tmp_path / "whole", *given)
    assert {"loss_perceptual", "loss_alignment"} <= metrics_of(tmp_path / "whole")[-1].keys()
    with stopped_after(3):
        train("kl", shards, tmp_path / "run", *given, code=75)
    shutil.rmtree(source)
    train("kl", shards, tmp_path / "run", *given)
    tensors = final_weights(tmp_path / "run")
    assert same_weights(tensors, final_weights(tmp_path / "whole"))
    assert not any("features" in name for name in tensors)
    assert (tmp_path / "run" / FROZEN / "model.safetensors").exists()
    _, model, _ = load_pretrained(tmp_path / "run")
    assert isinstance(model, KlAutoencoder) and model.features is not None


def test_accumulation_changes_nothing(encoder, shards, tmp_path):
    given = [f"model.frozen={encoder}", *USED]
    for size in (8, 2):
        more = [*given, f"train.max_device_batch={size}"]
        train("kl", shards, tmp_path / str(size), *more, is_double=True)
    assert_close(tmp_path / "2", tmp_path / "8")


GREY = ["data.mean=[0.5]", "data.std=[0.5]"]

CASES = [
    (["model.perceptual=0.5"], "model.perceptual: needs model.frozen"),
    (["model.frozen={mae}"], "model.frozen: is not used"),
    (["model.frozen=/nowhere", "model.align=0.1"], "model.frozen: /nowhere"),
    (["model.frozen={ae}", "model.align=0.1"], "without a Vision Transformer"),
    (
        [
            "model.frozen={mae}",
            "model.align=0.1",
            "data.in_chans=1",
            "data.mean=[0.5]",
            "data.std=[0.5]",
        ],
        "reads 3 channels, not 1",
    ),
    (
        ["model.frozen={mae}", "model.align=0.1", "model.decoder_only=true", "init.from=x"],
        "model.align: has no effect on an encoder that is kept",
    ),
    (["model.decoder_only=true", "init.from=x", "model.kl_weight=0.1"], "model.kl_weight: has no"),
    (
        ["model.align_cosine_margin=0.1"],
        "model.align_cosine_margin: has no effect without model.al",
    ),
    (
        ["model.adv=0", "model.adv_start=0.5", "model.critic_width=8"],
        "model.critic_width: has no effect without model.adv",
    ),
]


@pytest.mark.parametrize(("settings", "message"), CASES, ids=str)
def test_wrong_use_is_refused_in_one_line(settings, message, encoder, shards, tmp_path, capsys):
    ae = untrained_run(tmp_path / "ae", small_config("ae", channels=3))
    given = [one.format(mae=encoder, ae=ae) if "={" in one else one for one in settings]
    train("kl", shards, tmp_path / "run", *given, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()
