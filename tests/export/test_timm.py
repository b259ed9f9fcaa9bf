import json
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config
from timm.models.vision_transformer import VisionTransformer

from mae.base.errors import RunFailed, UserError
from mae.export.timm import timm_config
from mae.objectives.mae.export import mae_of
from tests.export.models import export_request, exported, images_of

VARIANTS = [
    {},
    {"pool": "avg"},
    {"in_chans": 1},
    {"kwargs": {"class_token": False}},
    {"kwargs": {"reg_tokens": 2}, "pool": "avg"},
    {"kwargs": {"qk_norm": True, "init_values": 0.1}},
    {"bits": 16, "in_chans": 5},
    {"img_size": (24, 40)},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_timm_loads_it_strictly_and_computes_the_same(tmp_path, in_process, variant):
    request = export_request(**variant)
    folder = tmp_path / "export"
    assert exported("timm", request, folder).max_error == 0
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(theirs, VisionTransformer)
    assert theirs.state_dict().keys() == load_file(folder / "model.safetensors").keys()
    images = images_of(request)
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (request.config.data.mean, request.config.data.std)
    )
    normalised = (images.int() / (2**request.config.data.bits - 1) - mean) / std
    features = request.model.encode(images)
    tokens = theirs.forward_features(normalised)
    torch.testing.assert_close(tokens[:, theirs.num_prefix_tokens :], features.tokens)
    has_class_token = variant.get("kwargs", {}).get("class_token", True)
    pooled = "cls" if has_class_token and variant.get("pool") != "avg" else "mean"
    torch.testing.assert_close(theirs(normalised), features.pooled[pooled])


def test_other_image_size_equals_resizing_in_timm(tmp_path, in_process):
    exported("timm", export_request(), tmp_path / "as-trained")
    resized = export_request(img_size=(32, 24))
    exported("timm", resized, tmp_path / "resized")
    options = {"pretrained": True, "img_size": (32, 24)}
    theirs = timm.create_model(f"local-dir:{tmp_path}/as-trained", **options).eval()
    ours = timm.create_model(f"local-dir:{tmp_path}/resized", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 24)
    assert torch.equal(ours(images), theirs(images))


def test_export_can_be_fine_tuned_with_its_own_preprocessing(tmp_path, in_process):
    exported("timm", export_request(), tmp_path / "export")
    name = f"local-dir:{tmp_path}/export"
    model = timm.create_model(name, pretrained=True, num_classes=5)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert isinstance(model, VisionTransformer)
    assert model.head.out_features == 5
    settings: dict[str, Any] = resolve_data_config(model.pretrained_cfg)
    transform: Any = create_transform(**settings)
    picture = Image.new("RGB", (40, 30), (51, 102, 255))
    given = transform(picture).mean(dim=(1, 2))
    torch.testing.assert_close(given, torch.tensor([1.0, 1.0, 0.7 / 0.3]))


def test_decoder_has_its_own_file_or_none(tmp_path, in_process):
    request = export_request()
    exported("timm", request, tmp_path / "with")
    files = {"README.md", "config.json", "decoder.safetensors", "model.safetensors"}
    assert {p.name for p in (tmp_path / "with").iterdir()} == files
    decoder = load_file(tmp_path / "with" / "decoder.safetensors")
    assert decoder.keys() == mae_of(request).decoder.state_dict().keys()
    assert json.loads((tmp_path / "with" / "config.json").read_text())["num_classes"] == 0
    exported("timm", export_request(decoder=False), tmp_path / "without")
    files -= {"decoder.safetensors"}
    assert {p.name for p in (tmp_path / "without").iterdir()} == files


def test_folder_that_is_not_empty_is_refused_and_unchanged(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(UserError, match="is not empty; nothing is overwritten"):
        exported("timm", export_request(), folder)
    assert [p.name for p in folder.iterdir()] == ["mine"]


def test_export_with_other_outputs_is_not_written(tmp_path, in_process, monkeypatch):
    def wrong(request):
        good = timm_config(request)
        return good | {"model_args": good["model_args"] | {"num_heads": 4}}

    monkeypatch.setattr("mae.export.timm.timm_config", wrong)
    with pytest.raises(
        RunFailed, match=r"not written: timm computes other .*: relative difference .* 1e-06"
    ):
        exported("timm", export_request(), tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_export_that_timm_cannot_load_is_not_written(tmp_path, in_process, monkeypatch):
    def wrong(request):
        return timm_config(request) | {"architecture": "vit_nothing"}

    monkeypatch.setattr("mae.export.timm.timm_config", wrong)
    with pytest.raises(
        RunFailed, match=r"not written: timm cannot load it: .*vit_nothing"
    ) as error:
        exported("timm", export_request(), tmp_path / "export")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
