"""Features of real photographs through the libraries' own loading code."""

import timm
import torch
from transformers import ViTModel

from tests.export.subjects import exported, subject_of


def test_timm_and_transformers_agree_on_photographs(tmp_path, in_process, photographs):
    subject = subject_of(img_size=(32, 48), decoder=False, kwargs={"depth": 4})
    done = exported("timm", subject, tmp_path / "timm", images=photographs)
    assert done.off == 0
    exported("hf", subject, tmp_path / "hf", images=photographs)
    images = subject.model.normalize_images(photographs)
    ours = subject.model.encode(photographs)
    through_timm = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True).eval()
    torch.testing.assert_close(through_timm(images), ours.pooled["cls"], rtol=0, atol=1e-5)
    model = ViTModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False).eval()
    tokens = model(images).last_hidden_state
    torch.testing.assert_close(tokens[:, 1:], ours.tokens, rtol=0, atol=1e-5)
