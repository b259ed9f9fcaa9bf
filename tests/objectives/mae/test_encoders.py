"""Every class and set of options of encoders in training and export."""

from typing import Any

import pytest
import timm
import torch

from mae.base.errors import UserError
from mae.evaluation.features import encoder_outputs
from mae.export.contract import features
from mae.objectives.base import total_loss
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from mae.objectives.registry import implementation
from mae.pictures.attention import last_attention
from mae.training.flops import flops_per_image
from mae.training.optim import build_optimizer, set_lr, take_step
from tests.export.models import config_of, export_request, exported, images_of
from tests.networks.encoders.option_sets import FEW, HIERA, SETS, tiny_arguments


def settings(name: str) -> dict:
    return {"encoder": name, "kwargs": tiny_arguments(name), "patch_size": 4}


def a_step(model: MaskedAutoencoder, config, images: torch.Tensor, number: int) -> torch.Tensor:
    """Loss before a step of the optimizer; every trainable parameter gets a gradient."""
    groups = implementation("mae").parameter_groups(model, config)
    optimizer = build_optimizer(groups, config.optim)
    set_lr(optimizer, 1e-2)
    noise = model.draw(images, torch.arange(len(images)) + 10 * number)
    torch.manual_seed(number)  # for the model that changes its positions at random
    loss = total_loss(model(images, noise, torch.zeros(())))
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert not take_step(optimizer, 0.0).skipped
    return loss.detach()


@pytest.mark.parametrize("name", SETS)
def test_it_learns_and_goes_on_from_its_weights_in_the_same_bits(name):
    config = config_of(**settings(name))
    torch.manual_seed(0)
    model, request = build_mae(config), export_request(**settings(name))
    images = images_of(request)
    losses = [a_step(model, config, images, number) for number in (1, 1, 1)]
    assert losses[2] < losses[0]
    again = build_mae(config)
    again.load_state_dict(model.state_dict())
    again.after_load()
    assert torch.equal(a_step(again, config, images, 2), a_step(model, config, images, 2))
    assert flops_per_image(model, 3) > 0
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        model.zero_grad()
        a_step(model, config, images, 3)


@pytest.mark.parametrize("name", SETS)
def test_exports_for_timm_are_equal_bit_by_bit(tmp_path, in_process, name):
    """Written and read by `mae.export.check`; here by timm alone, at its default arguments."""
    request = export_request(**settings(name))
    assert exported("timm", request, tmp_path / "export").max_error == 0
    theirs: Any = timm.create_model(f"local-dir:{tmp_path}/export", pretrained=True).eval()
    images = request.normalize(images_of(request))
    with torch.no_grad():
        tokens, pooled = features(request.encoder, images, request.pool)
        assert torch.equal(theirs.forward_features(images), tokens)
        assert torch.equal(theirs(images), pooled)


@pytest.mark.parametrize("name", FEW)
def test_features_tokens_and_attention(name):
    chosen = settings(name)
    if name in HIERA:  # the first block of a stage pools its queries
        chosen["kwargs"] = chosen["kwargs"] | {"stages": [1, 2]}
    request = export_request(**chosen)
    model, images = request.model, images_of(request)
    found = encoder_outputs(model, lambda x: _named(model, x), (16, 16), request.config)
    assert found.patch_size == (4, 4)
    attention = last_attention(request.encoder, model.encode, images)
    assert attention.heads.shape == (3, 2, 16)
    assert attention.heads.sum(-1).le(1 + 1e-5).all() and attention.heads.std() > 0


@pytest.mark.parametrize("name", FEW)
def test_formats_of_others_refuse_in_one_line(tmp_path, name):
    request = export_request(**settings(name))
    for format in ("mae", "hf"):
        if format == "hf" and ("dinov3" in name or "hiera" in name):
            continue
        with pytest.raises(UserError, match=f"--format {format}") as caught:
            exported(format, request, tmp_path / format)
        assert "\n" not in str(caught.value)


def _named(model, images):
    found = model.encode(images)
    return {**found.pooled, "tokens": found.tokens}


@pytest.mark.parametrize("format", ["onnx", "torch", "plain"])
def test_graphs(tmp_path, in_process, format):
    name = "vit_small_patch16_rope_mixed_ape_224"
    assert exported(format, export_request(**settings(name)), tmp_path / "out").max_error < 1e-4
