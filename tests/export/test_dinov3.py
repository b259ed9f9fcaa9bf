from typing import Any

import pytest
import torch
from transformers import AutoModel, DINOv3ViTModel

from mae.base.errors import UserError
from tests.export.models import export_request, exported, images_of
from tests.networks.encoders.option_sets import tiny_arguments

VARIANTS = [
    ("vit_small_patch16_dinov3_qkvb", {}),
    ("vit_small_patch16_dinov3", {"num_reg_tokens": 0}),
    ("vit_small_plus_patch16_dinov3_qkvb", {"rope_temperature": 30.0}),
]


def request_of(name: str, arguments: dict[str, Any], **settings):
    kwargs = tiny_arguments(name) | arguments
    return export_request(encoder=name, kwargs=kwargs, patch_size=4, **settings)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=str)
def test_transformers_loads_it_completely_and_computes_the_same(
    tmp_path, in_process, name, arguments
):
    request = request_of(name, arguments)
    done = exported("hf", request, tmp_path / "export")
    assert done.max_error < 1e-5 and "no place for the decoder" in done.remarks[0]
    model: Any = AutoModel.from_pretrained(tmp_path / "export").eval()
    assert type(model) is DINOv3ViTModel
    images = request.normalize(images_of(request))
    with torch.no_grad():
        found = model(images).last_hidden_state
        expected = request.encoder.forward_features(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_images_that_are_not_square(tmp_path, in_process):
    request = request_of(*VARIANTS[0], img_size=(16, 24))
    assert exported("hf", request, tmp_path / "export").max_error < 1e-5


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_small_patch16_rope_224", {}, "other rotations than DINOv3's, another attention"),
        ("eva02_small_patch14_224", {}, "absolute positions, no layer scale, another MLP"),
        ("vit_base_patch16_rope_reg1_gap_256", {}, "no class token"),
    ],
)
def test_what_it_does_not_compute_is_refused(tmp_path, name, arguments, message):
    with pytest.raises(UserError, match="--format hf: DINOv3ViTModel") as caught:
        exported("hf", request_of(name, arguments), tmp_path / "export")
    text = str(caught.value)
    assert message in text and "\n" not in text
