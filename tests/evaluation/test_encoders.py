import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.evaluation.encoders import objective_encoder, open_encoder, weights_sha256
from mae.evaluation.features import encoder_outputs
from mae.objectives import registry
from mae.objectives.mae.declaration import model_of
from mae.objectives.mae.model import MaskedAutoencoder
from mae.training.checkpoint.trained import build_objective
from tests.evaluation.frozen import CONFIG
from tests.runs import write_config
from tests.untrained import classifier_config, untrained_run

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, and a folder from which timm loads its encoder."""
    folder = tmp_path_factory.mktemp("export")
    config = load_config(write_config(folder, "none.tar"))
    model = build_objective(config).eval()
    assert isinstance(model, MaskedAutoencoder)
    with torch.no_grad():  # as training leaves it: unlike any fresh one
        for parameter in model.parameters():
            parameter.add_(0.01)
    (folder / "encoder").mkdir()
    save_file(model.encoder.state_dict(), folder / "encoder" / "model.safetensors")
    described = {
        "architecture": model_of(config).encoder,
        "num_classes": 0,
        "model_args": {
            **model_of(config).encoder_kwargs,
            "img_size": [16, 16],
            "patch_size": 4,
            "global_pool": "token",
        },
        "pretrained_cfg": {
            "input_size": [3, 16, 16],
            "crop_pct": 0.875,
            "mean": config.data.mean,
            "std": config.data.std,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "encoder" / "config.json").write_text(json.dumps(described))
    return model, folder / "encoder"


def test_export_for_timm_equals_the_encoder(exported):
    model, folder = exported
    opened = open_encoder(folder)
    assert opened.step is None
    assert opened.encoder.img_size == (16, 16) and opened.encoder.crop_pct == 0.875
    assert opened.encoder.sha256 == weights_sha256(model.encoder)
    with torch.no_grad():
        theirs, ours = opened.encoder.encode(IMAGES), model.encode(IMAGES)
    torch.testing.assert_close(theirs["tokens"], ours.tokens, atol=1e-5, rtol=1e-5)
    for name in ("mean", "cls"):
        torch.testing.assert_close(theirs[name], ours.pooled[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("crop_mode", "squash", "crop_mode squash: images are read with center only"),
        ("interpolation", "bilinear", "interpolation bilinear: images are read with bicubic only"),
        ("crop_pct", 1.1, r"crop_pct 1.1: images are read with numbers in \(0, 1\] only"),
    ],
)
def test_export_whose_images_are_read_otherwise_is_refused(exported, tmp_path, key, value, line):
    """They would be other images than the encoder was made for, and another result."""
    folder = Path(shutil.copytree(exported[1], tmp_path / "encoder"))
    path = folder / "config.json"
    described = json.loads(path.read_text())
    described["pretrained_cfg"][key] = value
    path.write_text(json.dumps(described))
    with pytest.raises(UserError, match=f"config.json: {line}"):
        open_encoder(folder)


def test_untrained_encoder_differs_and_is_reproducible(exported):
    opened = open_encoder(exported[1])
    module, fresh = opened.untrained()
    assert fresh.sha256 != opened.encoder.sha256
    assert opened.untrained()[1].sha256 == fresh.sha256
    assert {k: v.shape for k, v in module.state_dict().items()} == {
        k: v.shape for k, v in opened.module.state_dict().items()
    }


def test_folders_without_encoder_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match=r"neither a run \(config.yaml\) nor a model"):
        open_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no model.safetensors; nothing else is loaded"):
        open_encoder(tmp_path)
    weights = load_file(exported[1] / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="timm cannot load the encoder"):
        open_encoder(tmp_path)
    config = json.loads((exported[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights.pop("norm.bias")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"timm cannot load the encoder: .*norm\.bias"):
        open_encoder(tmp_path)


def test_sha256_depends_on_name_shape_and_value():
    def linear(value=1.0, shape=(2, 3), name="weight"):
        module = nn.Module()
        module.register_parameter(name, nn.Parameter(torch.full(shape, value)))
        return weights_sha256(module)

    different = {linear(), linear(value=2.0), linear(shape=(3, 2)), linear(name="w")}
    assert len(different) == 4 and linear() == linear()


def changed(config, model, weights, name) -> tuple[bool, bool]:
    """Two flags: the identity of the features changes with some weights; the features change."""
    before = objective_encoder(config, model)
    with torch.no_grad():
        vectors = before.encode(IMAGES)[name].clone()
        weights.add_(0.5)
        after = objective_encoder(config, model)
        same = torch.equal(after.encode(IMAGES)[name], vectors)
    return after.sha256 != before.sha256, not same


def test_features_are_identified_by_encoding_weights():
    model = build_objective(CONFIG).eval()
    assert isinstance(model, MaskedAutoencoder)
    assert changed(CONFIG, model, model.decoder.pred.weight, "mean") == (False, False)
    weights = model.encoder.get_parameter("blocks.0.attn.qkv.weight")
    assert changed(CONFIG, model, weights, "mean") == (True, True)


def test_identity_of_any_objective_uses_all_its_weights(monkeypatch):
    """The objective declares which of its weights encode."""
    monkeypatch.setitem(registry.OBJECTIVES, "toy", "tests.toy")
    config = load_config(None, ["data.img_size=16"], {"objective": "toy"})
    model = build_objective(config).eval()
    assert changed(config, model, model.get_parameter("encoder.0.weight"), "latents") == (
        True,
        True,
    )
    assert changed(config, model, model.get_parameter("decoder.weight"), "latents") == (True, False)
    assert objective_encoder(config, model).name == "pretrained"


def test_classifier_features_use_averaged_weights(tmp_path):
    run = untrained_run(tmp_path / "run", classifier_config())
    opened = open_encoder(run)
    assert opened.encoder.name == "fine-tuned" and opened.objective == "classifier"
    weights = load_file(run / "checkpoints" / "step-000000006" / "model.safetensors")
    names = {name for name in weights if name.startswith("average.encoder.")}
    last = {name: weights[name.removeprefix("average.")] for name in names}
    averaged = {**opened.module.get_submodule("encoder").state_dict()}
    for name in names:
        assert torch.equal(averaged[name.removeprefix("average.encoder.")], weights[name])
        assert not torch.equal(weights[name], last[name])
    assert opened.encoder.sha256 == weights_sha256(opened.module.get_submodule("encoder"))


def test_encoder_outputs_from_one_image(monkeypatch):
    model = build_objective(CONFIG).eval()
    encode = objective_encoder(CONFIG, model).encode
    assert encoder_outputs(model, encode, (16, 16), CONFIG) == (["mean", "cls"], (4, 4))

    def of_tokens(count):
        def encode(images):
            tokens = torch.zeros(len(images), count, 8)
            return {"pooled": images.float().mean((1, 2, 3)), "tokens": tokens}

        return encoder_outputs(nn.Identity(), encode, (16, 24), CONFIG)

    assert of_tokens(6) == (["pooled"], (8, 8))
    assert of_tokens(384) == (["pooled"], (1, 1))
    assert of_tokens(7).patch_size is None
    assert encoder_outputs(nn.Identity(), lambda images: {}, (16, 24), CONFIG) == ([], None)
