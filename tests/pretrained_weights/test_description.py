"""Geometry and normalisation of sources, and notes where a run differs."""

import json
import math

import pytest
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from mae.base.errors import UserError
from mae.config.sections import DataConfig, InitConfig
from mae.objectives.mae.implementation import start_mae
from mae.pretrained_weights.description import (
    normalisation_note,
    preprocessor_crop,
    preprocessor_normalisation,
    read_normalisation,
)
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.weight_files import Normalisation
from tests.pretrained_weights.models import NAME, SIZES, our_mae
from tests.untrained import NUMBERS, tiny_config, untrained_run

HALF = DataConfig(mean=NUMBERS, std=NUMBERS)


def lines(source, data=HALF, model=None):
    return start_mae(model or our_mae(), InitConfig.model_validate({"from": str(source)}), data)[0]


def timm_folder(folder, **config):
    save_file(our_mae(seed=1).encoder.state_dict(), folder / "model.safetensors")
    arguments = {"img_size": 32, "patch_size": 8, **SIZES, **config.pop("model_args", {})}
    described = {"architecture": NAME, "num_classes": 0, "model_args": arguments, **config}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def test_normalisation_of_a_run(tmp_path):
    data = DataConfig(train=("gone.tar",), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    run = untrained_run(tmp_path / "run", tiny_config(data=data))
    assert find_weights(str(run)).normalisation == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_other_normalisation_than_timms_gets_a_note(tmp_path):
    cfg = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    folder = timm_folder(tmp_path, pretrained_cfg=cfg)
    assert lines(folder)[-1] == (
        "init    trained with data.mean [0.485, 0.456, 0.406], data.std [0.229, 0.224, 0.225]; "
        "this run has [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]"
    )
    same = DataConfig(mean=(0.4853, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert len(lines(folder, same)) == 1


def test_other_normalisation_and_epsilon_than_transformers_get_notes(tmp_path):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    processor = {"image_mean": [0.25] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    notes = lines(tmp_path)
    assert "init    trained with LayerNorm epsilon 1e-12, this run has 1e-06" in notes
    assert notes[-1].startswith("init    trained with data.mean [0.25, 0.25, 0.25], data.std [0.5,")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"image_mean": 1, "image_std": [1]}'])
def test_malformed_normalisation_is_none(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    assert preprocessor_normalisation(tmp_path / "p.json") is None
    assert preprocessor_normalisation(tmp_path / "nix.json") is None
    assert read_normalisation(None) is None
    assert normalisation_note(None, HALF) == []


def test_other_number_of_channels_gets_a_note():
    (note,) = normalisation_note(
        Normalisation(NUMBERS, NUMBERS), DataConfig(mean=(0.5,), std=(0.5,))
    )
    assert note.endswith("this run has [0.5], [0.5]")


def test_another_activation_is_refused(tmp_path):
    source = timm_folder(tmp_path, architecture="vit_base_patch16_clip_quickgelu_224")
    arguments = {"pre_norm": False, "img_size": 32, "patch_size": 8, **SIZES}
    config = json.loads((source / "config.json").read_text()) | {"model_args": arguments}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"its activation is quickgelu, that of model.encoder gelu"):
        lines(source)
    assert find_weights(str(source)).geometry.activation == "quickgelu"


def test_crop_of_a_preprocessor_gives_back_its_short_side(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    for crop, edge in [(96, 118), (224, 256), (32, 36), (224, 354), (9, 14)]:
        size = {"shortest_edge": edge}
        described = {"do_center_crop": True, "crop_size": crop, "size": size}
        path.write_text(json.dumps(described))
        share = preprocessor_crop(path)
        assert share is not None and math.floor(crop / share) == edge
