"""Random Hieras of transformers, an implementation apart from timm's, as initial weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HieraConfig,
    HieraForImageClassification,
    HieraForPreTraining,
    HieraModel,
)

from mae.base.errors import UserError
from mae.config.sections import DataConfig, InitConfig
from mae.networks.vit import build_encoder
from mae.objectives.classifier.model import Classifier
from mae.objectives.mae.implementation import start_mae
from mae.objectives.mae.model import MaskedAutoencoder
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.fit import load_encoder
from mae.pretrained_weights.opened import OpenedModel, open_model
from tests.export.models import exported
from tests.export.test_hiera import request_of
from tests.pretrained_weights.models import DECODER, shaken

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SIZES: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 2, 2],
    "num_heads": [1, 2, 4],
    "num_query_pool": 2,
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, False, False],
    "image_size": [32, 48],
    "patch_size": [3, 3],
    "patch_stride": [2, 2],
    "patch_padding": [1, 1],
}
FOUR = {"depths": [1, 1, 1, 2], "num_heads": [2, 2, 2, 2], "masked_unit_size": [8, 8]}
VARIANTS: list[dict[str, Any]] = [
    {},
    {**FOUR, "num_query_pool": 2, "masked_unit_attention": [True, True, False, False]},
    {**FOUR, "num_query_pool": 3, "masked_unit_attention": [False] * 4, "mlp_ratio": 2.7},
    {"embed_dim_multiplier": 1.5, "embed_dim": 16, "layer_norm_eps": 1e-4},
    {"patch_size": [2, 2], "patch_padding": [0, 0], "num_channels": 1},
]


def saved(folder: Path, kind: Any = HieraModel, **changes) -> Any:
    """Random model of transformers, in double precision, saved in `folder`."""
    torch.manual_seed(0)
    model = shaken(kind(HieraConfig(**SIZES | changes)), 1).eval()
    model.save_pretrained(folder)
    return model.double()


def images_for(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (3, model.config.num_channels, *SIZES["image_size"])
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def opened_in_double(folder: Path) -> OpenedModel:
    channels = json.loads((folder / "config.json").read_text()).get("num_channels", 3)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * channels, "image_std": [0.5] * channels})
    )
    opened = open_model(folder)
    opened.objective.double()
    return opened


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@torch.no_grad()
def test_encoder_computes_the_same_in_double_precision(tmp_path, changes):
    theirs = saved(tmp_path, **changes)
    images = images_for(theirs)
    expected = theirs(images, output_hidden_states=True)
    opened = opened_in_double(tmp_path)
    total = len(theirs.state_dict())
    assert opened.lines[0].startswith(f"{total} of {total} encoder tensors") and not opened.assumed
    found = opened.objective.encode(images)
    torch.testing.assert_close(found.pooled["mean"], expected.pooler_output, **EXACT)
    by_rows = theirs.pooler.layernorm(expected.reshaped_hidden_states[-1].flatten(1, 2))
    torch.testing.assert_close(found.tokens, by_rows, **EXACT)


@torch.no_grad()
def test_classifier_computes_the_same_in_double_precision(tmp_path):
    theirs = saved(tmp_path, HieraForImageClassification, num_labels=3)
    opened = opened_in_double(tmp_path)
    assert isinstance(opened.objective, Classifier)
    images = images_for(theirs)
    torch.testing.assert_close(opened.objective.logits(images), theirs(images).logits, **EXACT)


def test_every_tensor_of_a_pretrained_model_is_loaded_or_skipped_by_its_reason(tmp_path):
    decoder = {"decoder_hidden_size": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    theirs = saved(tmp_path, HieraForPreTraining, **decoder)
    encoder: Any = build_encoder(
        "hiera_tiny_224",
        img_size=(32, 48),
        patch_size=8,
        embed_dim=8,
        stages=[1, 2, 2],
        mask_unit_attn=[True, False, False],
    )
    model = MaskedAutoencoder(encoder, **DECODER)
    init = InitConfig.model_validate({"from": str(tmp_path)})
    done = start_mae(model, init, DataConfig()).record
    skipped = done["skipped"]
    assert done["keys_loaded"] == len(encoder.state_dict())
    assert done["keys_loaded"] + len(skipped) == len(theirs.state_dict())
    reasons = {
        "the fusion of the stages, a part of the decoder",
        "a decoder of another architecture",
    }
    assert set(skipped.values()) == reasons
    norm = theirs.encoder_norm.weight.float()
    assert torch.equal(encoder.head.norm.weight, norm)


def test_an_export_is_read_back_in_the_same_bits(tmp_path, in_process):
    request = request_of(mlp_ratio=3.3)
    exported("hf", request, tmp_path / "export")
    opened = open_model(tmp_path / "export")
    found: Any = opened.objective
    own = request.encoder.state_dict()
    assert found.encoder.state_dict().keys() == own.keys()
    assert all(torch.equal(one, own[key]) for key, one in found.encoder.state_dict().items())
    assert opened.config.data.mean == request.config.data.mean


def test_another_image_size_interpolates_the_positions(tmp_path):
    saved(tmp_path)
    sizes: dict[str, Any] = {"embed_dim": 8, "stages": [1, 2, 2]}
    target = build_encoder(
        "hiera_tiny_224",
        img_size=(48, 48),
        patch_size=8,
        mask_unit_attn=[True, False, False],
        **sizes,
    )
    weights = find_weights(str(tmp_path))
    with pytest.raises(UserError, match="16 x 24 patches, now 24 x 24"):
        load_encoder(target, weights)
    loaded = load_encoder(target, weights, adapt_size=True)
    assert loaded.notes == ("positions resampled from 16 x 24 to 24 x 24 patches",)


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({key: one for key, one in tensors.items() if one is not None}, file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder_norm.weight", r"are both head\.norm\.weight: give a file that holds one model"),
        ("encoder.stages.0.layers.1.mlp.fc1.bias", r"stages\.0\.layers\.1\.mlp\.fc1\.bias has no"),
        ("encoder.stages.3.layers.0.mlp.fc1.bias", r"stages\.3\.layers\.0\.mlp\.fc1\.bias has no"),
    ],
)
def test_twice_the_same_and_unknown_tensors_are_refused(tmp_path, name, message):
    saved(tmp_path)
    change_tensors(tmp_path, **{name: torch.ones(32)})
    with pytest.raises(UserError, match=message):
        open_model(tmp_path)


def test_a_file_without_its_config_is_named_as_what_it_is(tmp_path):
    saved(tmp_path)
    file = (tmp_path / "model.safetensors").rename(tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match="weights of a Hiera, whose sizes do not follow"):
        open_model(file)


def test_a_missing_tensor_is_refused(tmp_path):
    saved(tmp_path)
    change_tensors(tmp_path, **{"pooler.layernorm.weight": None})
    with pytest.raises(UserError, match=r"lacks head\.norm\.weight"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": [1, 2, 8]}, r"no place for num_heads \[1, 2, 8\]"),
        ({"masked_unit_attention": [0, 1, 0]}, r"no place for masked_unit_attention \[0, 1, 0\]"),
        ({"hidden_act": "relu"}, "no place for hidden_act relu"),
        ({"depths": [5]}, r"no valid model: depths \[5\]"),
        ({"masked_unit_attention": [True]}, "not of two stages or more"),
        ({"num_heads": [0, 2, 4]}, "not positive"),
        ({"masked_unit_size": [0, 4]}, "masked_unit_size 0 x 4"),
        ({"image_size": 32}, "no valid model"),
    ],
    ids=str,
)
def test_a_config_that_timm_cannot_hold_is_refused_by_its_option(tmp_path, changes, message):
    saved(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message) as caught:
        find_weights(str(tmp_path))
    assert "\n" not in str(caught.value)
