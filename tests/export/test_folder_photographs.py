"""Features of real photographs through the libraries' own loading code."""

import pytest
import timm
import torch
from transformers import ViTModel

from mae.config.sections import DataConfig
from mae.data.opening import open_images
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.export.contract import ExportRequest
from mae.objectives.base import total_loss
from mae.objectives.mae.declaration import MaeModel
from mae.objectives.mae.model import build_mae
from mae.objectives.registry import config_type
from tests.export.models import STATE, export_request, exported

COUNT = 50


def test_timm_and_transformers_compute_our_features(tmp_path, in_process, photographs):
    request = export_request(img_size=(32, 48), decoder=False, kwargs={"depth": 4})
    done = exported("timm", request, tmp_path / "timm", images=photographs)
    assert done.max_error == 0
    exported("hf", request, tmp_path / "hf", images=photographs)
    images = request.normalize(photographs)
    ours = request.model.encode(photographs)
    through_timm = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    torch.testing.assert_close(through_timm(images), ours.pooled["cls"], rtol=0, atol=1e-5)
    model = ViTModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False).eval()
    tokens = model(images).last_hidden_state
    torch.testing.assert_close(tokens[:, 1:], ours.tokens, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def trained(shared_data, tmp_path_factory) -> tuple[ExportRequest, torch.Tensor]:
    """A ViT-Ti/16 after a few steps, which changed all tensors; 50 photographs of 224 px."""
    data = DataConfig(index_dir=tmp_path_factory.mktemp("index"))
    config = config_type("mae")(data=data, model=MaeModel(encoder="vit_tiny_patch16_224"))
    images = open_images([f"{shared_data}/clothing/val-000000.tar"], "photographs", config)
    views = CentredViews(images, (224, 224), 0.875)
    photographs = stack([views.view(i) for i in range(COUNT)])
    torch.manual_seed(0)
    model = build_mae(config)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    for step in range(6):
        batch = model.normalize_images(photographs[torch.arange(8) + 8 * step])
        noise = model.draw(batch, torch.arange(8) + 8 * step)
        total_loss(model(batch, noise, torch.tensor(0.0))).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.named_parameters():
        assert name not in before or not torch.equal(parameter, before[name]), name
    return ExportRequest(config, model.eval(), STATE, "token", True, model.img_size), photographs


@pytest.mark.fault
@pytest.mark.parametrize(("format", "most"), [("timm", 1e-5), ("hf", 1e-5), ("onnx", 1e-4)])
def test_export_of_a_trained_model_passes_the_check(tmp_path, trained, format, most):
    """Real sizes: differences that are small in 2 blocks of width 32 add up in 12 of width 192."""
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    request, photographs = trained
    done = exported(format, request, tmp_path / format, images=photographs)
    print(f"{format}: off by {done.max_error:.1e}")
    assert done.max_error <= most
