"""`mae bench profile`: kinds of operations, and their time in a step."""

import json

import pytest

from mae.cli import main
from mae.commands.bench.profile import KINDS, OTHERS, by_kind, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTT", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("triton_per_fused_add_native_layer_norm_5", "fused by the compiler"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::linalg_vector_norm", "optimizer, gradient norm"),
        ("aten::_fused_adamw_", "optimizer, gradient norm"),
        ("aten::gelu", "activation"),
        ("aten::gather", "gathering, sorting, copying"),
        ("aten::mul_", "sums and the like"),
        ("cudaLaunchKernel", None),
    ],
)
def test_kinds_by_name(name, kind):
    assert kind_of(name) == kind


def test_the_rest_of_the_time_is_others():
    found = by_kind([("aten::mm", 0.5), ("aten::bmm", 0.2), ("aten::gelu", 0.8), ("?", 9.0)], 2.0)
    assert list(found) == ["activation", "matrix products", OTHERS]
    assert found["matrix products"] == pytest.approx(0.7)
    assert found[OTHERS] == pytest.approx(0.5)


def test_the_command_profiles_a_step(tmp_path, capsys):
    out = tmp_path / "profile.json"
    sizes = ["--img-size", "64", "--batch-size", "2", "--decoder-depth", "1"]
    model = ["--model", "vit_tiny_patch16_224", "--device", "cpu"]
    assert main(["bench", "profile", *model, *sizes, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result["kinds"]) <= {OTHERS, *(kind for kind, _ in KINDS)}
    assert result["kinds"]["matrix products"] > 0 and result["products_at_ceiling"] > 0
    assert sum(result["kinds"].values()) == pytest.approx(result["seconds"], rel=0.05)
    assert "`aten::addmm`" in out.with_suffix(".md").read_text()
    assert "of the step" in capsys.readouterr().out
