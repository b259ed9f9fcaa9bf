"""Vectors of models of timm, above all of those that pool their tokens by attention."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import mae
from mae.base.errors import UserError
from mae.evaluation.encoders import PRETRAINED, UNTRAINED, open_encoder
from mae.evaluation.timm_models import pools_by_attention
from mae.pretrained_weights.architecture import WeightOptions
from mae.pretrained_weights.find import find_weights
from mae.pretrained_weights.opened import open_model
from tests.pretrained_weights.models import shaken

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
IMAGES = torch.randint(
    0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
POOLING = {
    "vit_pe_core_base_patch16_224": ["pooled", "mean", "cls"],  # with a head into CLIP's space
    "vit_pe_core_gigantic_patch14_448": ["pooled", "mean"],
    "vit_base_patch16_siglip_224": ["pooled", "mean"],
}
"""name that pools by attention → its vectors"""
create: Any = timm.create_model


def tiny(name: str, pretrained: bool = False, **arguments: Any) -> Any:
    """`timm.create_model` of a tiny instance; `pretrained`: with numbers of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = create(name, pretrained=False, **{**TINY, **arguments})
        model.pretrained_cfg |= {"input_size": (3, 32, 32), "crop_pct": 1.0}
    return shaken(model, 1) if pretrained else model


def vector_of(model: Any) -> torch.Tensor:
    """timm's own vector of `IMAGES`, read with the mean and std of these models, 0.5."""
    with torch.no_grad():
        return model.eval()((IMAGES / 255 - 0.5) / 0.5)


def found_in(encoder: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {key: one for key, one in encoder.encode(IMAGES).items() if key != "tokens"}


@pytest.mark.parametrize("name", POOLING)
def test_the_vector_of_an_attention_pooling_is_the_first(monkeypatch, name):
    monkeypatch.setattr(timm, "create_model", tiny)
    source = Path(f"timm:{name}")
    opened = open_encoder(source)
    (line,) = opened.lines
    assert "pooled is timm's own" in line and opened.encoder.name == PRETRAINED
    vectors = found_in(opened.encoder)
    assert list(vectors) == POOLING[name]
    expected = vector_of(tiny(name, pretrained=True, num_classes=0))
    torch.testing.assert_close(vectors["pooled"], expected)
    untrained = opened.untrained()[1]
    assert untrained.name == UNTRAINED
    assert not torch.equal(found_in(untrained)["pooled"], expected)
    loaded = mae.load(source)
    assert loaded.features[0] == "pooled"
    again = torch.from_numpy(loaded.embed(IMAGES))
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", POOLING)
def test_of_a_folder_as_well(tmp_path, name):
    model = tiny(name, pretrained=True, num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    numbers = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}
    numbers |= {"first_conv": "patch_embed.proj", "classifier": "head"}
    config = {"architecture": name, "num_classes": 0, "model_args": TINY, "global_pool": "map"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": numbers}))
    opened = open_encoder(tmp_path)
    assert "by an attention layer" in opened.lines[0]
    torch.testing.assert_close(found_in(opened.encoder)["pooled"], vector_of(model))


def test_options_and_encoders_of_single_tokens(monkeypatch):
    monkeypatch.setattr(timm, "create_model", tiny)
    source = Path("timm:vit_base_patch16_siglip_224")
    other = open_encoder(source, WeightOptions(mean=(0.1, 0.2, 0.3)))
    assert other.config.data.mean == (0.1, 0.2, 0.3) and other.config.data.std == (0.5,) * 3
    assert other.encoder.pixels != open_encoder(source).encoder.pixels
    with pytest.raises(UserError, match="--num-heads: timm:vit_base_patch16_siglip_224 records"):
        open_encoder(source, WeightOptions(num_heads=2))


def test_single_tokens_need_no_pooling(monkeypatch):
    monkeypatch.setattr(timm, "create_model", tiny)
    for name in ("vit_tiny_patch16_224", "vit_small_patch16_dinov3", "resnet18", "nix"):
        assert not pools_by_attention(Path(f"timm:{name}"))
    assert not pools_by_attention(Path("vit_pe_core_base_patch16_224"))


def test_a_head_behind_an_attention_pooling_does_not_keep_the_encoder_from_use(monkeypatch):
    """`mae attention`, `mae pca` and `mae export` take the encoder alone."""
    monkeypatch.setattr(timm, "create_model", tiny)
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    monkeypatch.setattr("mae.pretrained_weights.architecture.settable", lambda _: sizes)
    opened = open_model(Path("timm:vit_pe_core_base_patch16_224"))
    assert opened.config.objective == "mae"
    assert any("its head is not used: it reads tokens pooled by 'map'" in x for x in opened.lines)
    assert "an attention pooling" in opened.lines[0]


def test_so_does_a_file_of_weights(tmp_path):
    """Its head would be taken for that of a class token."""
    model = tiny("vit_tiny_patch16_224", pretrained=True, global_pool="map", num_classes=3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = find_weights(str(tmp_path / "model.safetensors"))
    assert not found.head and "its head is not used" in found.notes[-1]
