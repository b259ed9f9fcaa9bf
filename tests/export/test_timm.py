import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from mae.config import Config, DataConfig, ModelConfig
from mae.errors import UserError
from mae.export.timm import export_timm
from mae.models.mae import build_mae
from mae.training.checkpoint import Position

POSITION = Position(step=7, samples=56, data="f" * 64)


def config_of(**settings) -> Config:
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = ModelConfig(
        encoder="vit_tiny_patch16_224",
        encoder_kwargs=sizes | settings.pop("kwargs", {}),
        img_size=(16, 24),
        patch_size=8,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        **settings,
    )
    numbers = tuple(0.1 + 0.1 * i for i in range(model.in_chans))
    return Config(data=DataConfig(train=("s.tar",), mean=numbers, std=numbers), model=model)


def exported(tmp_path, config):
    torch.manual_seed(0)
    model = build_mae(config.model, config.data.mean, config.data.std).eval()
    export_timm(config, model, POSITION, tmp_path / "export")
    return model, tmp_path / "export"


@pytest.mark.parametrize(
    "settings",
    [{}, {"in_chans": 1}, {"kwargs": {"class_token": False}}, {"kwargs": {"reg_tokens": 2}}],
)
def test_timm_loads_it_with_nothing_missing_and_computes_the_same(tmp_path, settings):
    config = config_of(**settings)
    model, folder = exported(tmp_path, config)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(theirs, VisionTransformer)
    assert theirs.state_dict().keys() == load_file(folder / "model.safetensors").keys()
    images = torch.randint(0, 256, (3, config.model.in_chans, 16, 24), dtype=torch.uint8)
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.data.mean, config.data.std))
    features = model.encode(images)
    tokens = theirs.forward_features((images / 255 - mean) / std)
    torch.testing.assert_close(tokens[:, theirs.num_prefix_tokens :], features.tokens)
    pooled = features.pooled.get("cls", features.pooled["mean"])
    torch.testing.assert_close(theirs((images / 255 - mean) / std), pooled)


def test_a_fresh_process_fine_tunes_it(tmp_path):
    _, folder = exported(tmp_path, config_of())
    program = f"""
import timm, torch
model = timm.create_model("local-dir:{folder}", pretrained=True, num_classes=5)
transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))
loss = model(torch.randn(2, 3, 16, 24)).sum()
loss.backward()
print(tuple(model.head.weight.shape), transform.transforms[-1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(5, 32)" in done.stdout
    assert "mean=tensor([0.1000, 0.2000, 0.3000])" in done.stdout


def test_the_decoder_is_kept_apart_and_the_card_says_how_to_load(tmp_path):
    model, folder = exported(tmp_path, config_of())
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "config.json",
        "decoder.safetensors",
        "model.safetensors",
    }
    assert load_file(folder / "decoder.safetensors").keys() == model.decoder.state_dict().keys()
    card = (folder / "README.md").read_text()
    for part in ("local-dir:", "56 images", "mask ratio 0.75", "0.1, 0.2", "normalised per patch"):
        assert part in card, part
    assert json.loads((folder / "config.json").read_text())["num_classes"] == 0


def test_a_folder_with_something_in_it_is_refused_and_kept(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(UserError, match="is not empty; nothing is overwritten"):
        exported(tmp_path, config_of())
    assert [p.name for p in folder.iterdir()] == ["mine"]


def test_an_export_that_timm_computes_otherwise_is_not_written(tmp_path, monkeypatch):
    def wrong(config, model):
        good = timm_config(config, model)
        return good | {"model_args": good["model_args"] | {"num_heads": 4}}

    from mae.export.timm import timm_config

    monkeypatch.setattr("mae.export.timm.timm_config", wrong)
    with pytest.raises(RuntimeError, match="not written"):
        exported(tmp_path, config_of())
    assert not list(tmp_path.iterdir())
