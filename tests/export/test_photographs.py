"""Features of real photographs through the libraries' own loading code."""

import pytest
import timm
import torch
from transformers import ViTModel

from mae.config.sections import DataConfig
from mae.data.training_data import open_images
from mae.data.transform import stack
from mae.data.views import CentredViews
from mae.export.subject import Subject
from mae.objectives.base import total_loss
from mae.objectives.mae.declaration import MaeModel
from mae.objectives.mae.model import build_mae
from mae.objectives.registry import config_type
from tests.export.subjects import POSITION, exported, subject_of

COUNT = 50


def test_timm_and_transformers_agree_on_photographs(tmp_path, in_process, photographs):
    subject = subject_of(img_size=(32, 48), decoder=False, kwargs={"depth": 4})
    done = exported("timm", subject, tmp_path / "timm", images=photographs)
    assert done.off == 0
    exported("hf", subject, tmp_path / "hf", images=photographs)
    images = subject.normalize(photographs)
    ours = subject.model.encode(photographs)
    through_timm = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    torch.testing.assert_close(through_timm(images), ours.pooled["cls"], rtol=0, atol=1e-5)
    model = ViTModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False).eval()
    tokens = model(images).last_hidden_state
    torch.testing.assert_close(tokens[:, 1:], ours.tokens, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def trained(shared_data, tmp_path_factory) -> tuple[Subject, torch.Tensor]:
    """A ViT-Ti/16 after a few steps, no tensor as it was initialised; 50 photographs of 224 px."""
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
    return Subject(config, model.eval(), POSITION, "token", True, model.img_size), photographs


@pytest.mark.fault
@pytest.mark.parametrize(("format", "most"), [("timm", 1e-5), ("hf", 1e-5), ("onnx", 1e-4)])
def test_fresh_processes_compute_the_same_of_photographs(tmp_path, trained, format, most):
    """Sizes of real use: what is small in two blocks of 32 numbers adds up in twelve of 192."""
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    subject, photographs = trained
    done = exported(format, subject, tmp_path / format, images=photographs)
    print(f"{format}: off by {done.off:.1e}")
    assert done.off <= most
