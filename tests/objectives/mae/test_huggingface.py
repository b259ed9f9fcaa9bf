import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, ViTMAEForPreTraining, ViTModel

from mae.base.errors import UserError
from mae.objectives.base import total_loss
from mae.objectives.mae.export import mae_of
from tests.export.models import config_of, export_request, exported, images_of


def load(kind: Any, folder: Path, **options) -> Any:
    """Load a model in evaluation mode, with no missing or unexpected tensors."""
    model, loading = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(loading.values()), loading
    return model.eval()


@pytest.mark.parametrize("variant", [{}, {"in_chans": 1}, {"kwargs": {"mlp_ratio": 2}}], ids=str)
def test_both_folders_load_completely_and_compute_the_same(tmp_path, in_process, variant):
    request = export_request(**variant)
    assert exported("hf", request, tmp_path / "export").max_error < 1e-5
    encoder = load(ViTModel, tmp_path / "export" / "encoder", add_pooling_layer=False)
    raw = images_of(request, 4)
    images = request.normalize(raw)
    found = encoder(images).last_hidden_state
    torch.testing.assert_close(
        found, request.encoder.forward_features(images), rtol=1e-5, atol=1e-5
    )
    full = load(ViTMAEForPreTraining, tmp_path / "export")
    split = mae_of(request).draw(images, torch.arange(4))
    noise = torch.cat([split.ids_keep, split.ids_masked], dim=1).argsort(dim=1).double()
    loss = full(images, noise=noise).loss
    ours = total_loss(request.model(raw, split, torch.tensor(0.0)))
    torch.testing.assert_close(loss, ours, rtol=1e-5, atol=1e-5)
    assert full.config.mask_ratio == 0.75 and full.config.norm_pix_loss


def test_names_are_those_on_the_hub(tmp_path, in_process):
    """Names of facebook/vit-mae-base, which every version of transformers reads."""
    exported("hf", export_request(), tmp_path / "export")
    names = load_file(tmp_path / "export" / "model.safetensors").keys()
    assert len(names) == 6 + 2 * 16 + 8 + 2 * 16
    assert "vit.encoder.layer.1.attention.attention.query.weight" in names
    assert "vit.embeddings.patch_embeddings.projection.weight" in names
    assert "decoder.decoder_layers.1.output.dense.bias" in names
    assert "decoder.mask_token" in names


def test_auto_classes_load_the_encoder_without_masking(tmp_path, in_process):
    request = export_request()
    exported("hf", request, tmp_path / "export")
    model = AutoModel.from_pretrained(tmp_path / "export" / "encoder")
    assert type(model) is ViTModel
    assert model(torch.zeros(1, 3, 16, 16)).last_hidden_state.shape == (1, 5, 32)


def test_non_square_images_are_exported_without_the_decoder(tmp_path, in_process):
    with pytest.raises(UserError, match="takes square images: --no-decoder"):
        exported("hf", export_request(img_size=(16, 24)), tmp_path / "export")
    request = export_request(img_size=(16, 24), decoder=False)
    exported("hf", request, tmp_path / "export")
    files = {"README.md", "config.json", "model.safetensors"}  # no processor crops as we do
    assert {p.name for p in (tmp_path / "export").iterdir()} == files
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["image_size"] == [16, 24] and config["model_type"] == "vit"
    assert "prepare(np.array(Image.open" in (tmp_path / "export" / "README.md").read_text()


def test_sixteen_bits_are_refused(tmp_path):
    assert config_of(bits=16).data.bits == 16
    with pytest.raises(UserError, match="read 8 bits a channel, these images have 16"):
        exported("hf", export_request(bits=16), tmp_path / "export")


def test_without_transformers_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers: pip install 'maekit\[hf\]'"):
        exported("hf", export_request(), tmp_path / "export")
    assert not list(tmp_path.iterdir())
