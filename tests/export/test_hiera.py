"""Hiera for transformers: a HieraModel that computes the same."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, HieraModel

from mae.base.errors import UserError
from tests.export.models import export_request, exported, images_of

NAME = "hiera_tiny_224"
SIZES: dict[str, Any] = {"embed_dim": 8, "num_heads": 1, "stages": [1, 2, 2]}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"stages": [1, 1, 1, 2], "q_pool": 2},  # 2 x 2 tokens a unit, as in the release
    {"stages": [1, 1, 1], "mask_unit_attn": [0, 0, 0], "num_heads": 2},
    {"stages": [2, 1, 2], "mask_unit_attn": [1, 1, 0], "mlp_ratio": 3.3},
    {"patch_kernel": [2, 2], "patch_padding": [0, 0]},  # no overlap
    {"embed_dim": 16, "dim_mul": 1.5, "head_mul": 1.0},
    {"abs_win_pos_embed": True, "global_pos_size": [3, 5]},
    {"img_size": (16, 24)},
]


def request_of(**arguments):
    """Tiny Hiera at 16 x 16 px; units of 8 px."""
    settings = {key: arguments.pop(key) for key in ("img_size", "bits") if key in arguments}
    kwargs = SIZES | arguments
    last = len(kwargs["stages"]) - 1
    patch_size = 8 // 2 ** (last - kwargs.get("q_pool", last))
    settings |= {"encoder": NAME, "mask_ratio": 0.5}
    return export_request(kwargs=kwargs, patch_size=patch_size, **settings)


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_transformers_computes_the_same_in_double_precision(tmp_path, in_process, arguments):
    request = request_of(**arguments)
    done = exported("hf", request, tmp_path / "export")
    assert done.max_error < 1e-5 and "the decoder is not written" in done.remarks[-1]
    assert any("as their sum" in line for line in done.remarks) == (
        "abs_win_pos_embed" in arguments
    )
    model: Any = AutoModel.from_pretrained(tmp_path / "export").eval().double()
    assert type(model) is HieraModel
    images = request.normalize(images_of(request)).double()
    encoder: Any = request.encoder.double()
    with torch.no_grad():
        found = model(images, output_hidden_states=True)
        tokens = encoder.forward_features(images)
        vector = encoder.head.norm(tokens.mean(dim=1))
        stages = encoder.forward_intermediates(images, output_fmt="NHWC", intermediates_only=True)
    # The sum of two tables of positions is rounded to single precision.
    near: Any = {"rtol": 1e-6, "atol": 1e-6} if "abs_win_pos_embed" in arguments else EXACT
    torch.testing.assert_close(found.last_hidden_state, tokens, **near)
    torch.testing.assert_close(found.pooler_output, vector, **near)
    for one, other in zip(found.reshaped_hidden_states[1:], stages, strict=True):
        torch.testing.assert_close(one, other, **near)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_values": 0.1}, "layer scale (init_values)"),
        ({"use_expand_proj": False}, "without a projection (use_expand_proj=false)"),
        ({"mask_unit_attn": [0, 1, 0]}, "place for this mask_unit_attn;"),  # from its first block
        ({"q_pool": 1}, "place for this mask_unit_attn;"),  # windows that do not shrink
    ],
    ids=str,
)
def test_what_it_does_not_compute_is_refused_by_its_option(tmp_path, arguments, message):
    with pytest.raises(UserError, match="--format hf: HieraModel") as caught:
        exported("hf", request_of(**arguments), tmp_path / "export")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "export").exists()


def test_names_are_those_on_the_hub(tmp_path, in_process):
    """Names of facebook/hiera-tiny-224-hf."""
    exported("hf", request_of(), tmp_path / "export")
    names = load_file(tmp_path / "export" / "model.safetensors").keys()
    assert len(names) == 3 + 5 * 12 + 2 * 2 + 2
    assert "embeddings.patch_embeddings.projection.weight" in names
    assert "encoder.stages.2.layers.1.layernorm_after.bias" in names
    assert "encoder.stages.1.layers.0.proj.weight" in names
    assert "pooler.layernorm.weight" in names
    files = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in (tmp_path / "export").iterdir()} == files
    assert "outputs.pooler_output" in (tmp_path / "export" / "README.md").read_text()


def test_sixteen_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="read 8 bits a channel, these images have 16"):
        exported("hf", request_of(bits=16), tmp_path / "export")
