"""Weights of Hiera from files: the release's names, another image size, classifiers."""

import json
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.hiera import Hiera, checkpoint_filter_fn

from mae.base.errors import UserError
from mae.networks.encoders.hiera import HieraAdapter
from mae.networks.vit import build_encoder
from mae.objectives.classifier.adopt import adopt_classifier
from mae.objectives.mae.model import build_mae
from mae.pretrained_weights.architecture import WeightOptions, infer_settings
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.fit import load_encoder
from mae.pretrained_weights.start import start_encoder
from tests.export.models import config_of
from tests.pretrained_weights.models import shaken

THREE: dict[str, Any] = {"embed_dim": 7, "num_heads": 1, "stages": [1, 2, 2]}
SMALL: dict[str, Any] = {"num_heads": 1, "stages": [1, 2, 2]}


def tiny(size: tuple[int, int] = (32, 48), **arguments) -> Hiera:
    encoder = build_encoder("hiera_tiny_224", img_size=size, patch_size=8, **THREE | arguments)
    assert isinstance(encoder, Hiera)
    return shaken(encoder, 1)


def hub_folder(path, model: Hiera, classes: int = 0):
    """A folder in timm's hub format."""
    path.mkdir()
    save_file(model.state_dict(), path / "model.safetensors")
    arguments = THREE | HieraAdapter().timm_arguments(model)
    config = {"architecture": "hiera_tiny_224", "num_classes": classes, "model_args": arguments}
    config |= {"global_pool": "avg", "pretrained_cfg": {"license": "cc-by-nc-4.0"}}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_every_tensor_of_a_release_is_loaded_or_skipped_by_its_reason(tmp_path):
    """Names of github.com/facebookresearch/hiera; timm's own conversion is the reference."""
    source = tiny((32, 32))
    own = source.state_dict()
    released = {key.replace("head.norm.", "encoder_norm."): one for key, one in own.items()}
    theirs = checkpoint_filter_fn(dict(released))
    assert theirs.keys() == own.keys()
    extra = {
        "mask_token": torch.ones(1, 1, 16),
        "decoder_embed.weight": torch.ones(16, 28),
        "decoder_pos_embed": torch.ones(1, 16, 16),
        "multi_scale_fusion_heads.0.weight": torch.ones(28, 7, 4, 4),
        "head.projection.weight": torch.ones(5, 28),
    }
    torch.save({"model_state": released | extra}, tmp_path / "mae_hiera_tiny_224.pth")
    weights, target = (
        find_weights(str(tmp_path / "mae_hiera_tiny_224.pth")),
        shaken(tiny((32, 32)), 7),
    )
    loaded = load_encoder(target, weights)
    assert weights.licence.non_commercial  # by its name: the file declares none
    assert loaded.tensors == loaded.of == len(own) and not loaded.kept
    assert all(torch.equal(tensor, own[key]) for key, tensor in target.state_dict().items())
    assert loaded.skipped["multi_scale_fusion_heads.0.weight"].startswith("the fusion")
    assert loaded.skipped["head.projection.weight"] == "a head"
    assert len(loaded.skipped) + loaded.tensors + len(weights.decoder) == len(released | extra)


def test_another_image_size_interpolates_the_positions_of_tokens(tmp_path):
    weights = find_weights(hub_folder(tmp_path / "hub", tiny((32, 48))))
    assert weights.licence.non_commercial
    target = tiny((48, 48))
    with pytest.raises(UserError, match="16 x 24 patches, now 24 x 24"):
        load_encoder(target, weights)
    loaded = load_encoder(target, weights, adapt_size=True)
    assert loaded.notes == ("positions resampled from 16 x 24 to 24 x 24 patches",)


def test_another_attention_is_refused(tmp_path):
    """No tensor tells it."""
    weights = find_weights(hub_folder(tmp_path / "hub", tiny()))
    with pytest.raises(UserError, match=r"attention within mask units is .*model.encoder \["):
        load_encoder(tiny(mask_unit_attn=[True, False, False]), weights)


def test_a_classifier_of_timm_is_adopted_with_equal_logits(tmp_path):
    theirs = timm.create_model(
        "hiera_tiny_224", num_classes=3, **THREE, **HieraAdapter().timm_arguments(tiny())
    )
    assert isinstance(theirs, Hiera)
    theirs = shaken(theirs, 3).eval()
    weights = find_weights(hub_folder(tmp_path / "hub", theirs, classes=3))
    adopted = adopt_classifier(weights, WeightOptions())
    assert adopted is not None
    images = torch.randn(2, 3, 32, 48)
    model = adopted.objective.eval()
    assert torch.equal(model.encoder_module()(images), theirs(images))


def test_two_tensors_of_one_name_are_refused():
    own = tiny().state_dict()
    with pytest.raises(UserError, match=r"both head\.norm\.weight"):
        HieraAdapter().released_names(tiny(), {**own, "encoder_norm.weight": torch.ones(28)})


def test_the_last_norm_is_no_part_of_a_new_head(tmp_path):
    """Decoder, pooled vectors and tokens all pass it: without it another model would be loaded."""
    config = config_of(encoder="hiera_tiny_224", kwargs=SMALL, patch_size=4)
    model = build_mae(config)
    weights = {
        key: one for key, one in model.encoder.state_dict().items() if "head.norm" not in key
    }
    save_file(weights, tmp_path / "cut.safetensors")
    init = config.init.model_copy(update={"from_": str(tmp_path / "cut.safetensors")})
    with pytest.raises(UserError, match=r"lacks head\.norm\.weight"):
        start_encoder(model, model.encoder, init, config.data)


def test_a_file_of_weights_alone_is_named_as_what_it_is(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "h.safetensors")
    weights = find_weights(str(tmp_path / "h.safetensors"))
    with pytest.raises(UserError, match="weights of a Hiera, whose sizes do not follow"):
        infer_settings(weights, WeightOptions())
