from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from mae.config.sections import TrainConfig
from mae.training.step import KERNELS, attention_kernel, begin_step, compile_step


def enabled() -> list[bool]:
    cuda = torch.backends.cuda
    return [
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    ]


@pytest.mark.parametrize("name", ["auto", *KERNELS])
def test_only_the_kernel_that_is_named_is_used(name):
    before = enabled()
    with attention_kernel(TrainConfig(attention=name)):
        if name == "auto":
            assert enabled() == before
        else:
            assert enabled() == [name == one for one in ("flash", "efficient", "math", "cudnn")]
    assert enabled() == before


def test_every_kernel_has_its_setting():
    assert {"auto", *KERNELS} == set(get_args(TrainConfig.model_fields["attention"].annotation))


def test_kernels_compute_the_same():
    q, k, v = torch.randn(3, 2, 3, 50, 16)
    found = []
    for name in ("math", "flash"):
        with attention_kernel(TrainConfig(attention=name)):
            found.append(F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("may_break", [False, True])
def test_what_is_asked_for_is_compiled(may_break, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: asked.append(options))
    for mode in (False, True, "reduce-overhead"):
        compile_step(torch.nn.Identity(), TrainConfig(compile=mode), may_break)
    shapes = {"fullgraph": not may_break, "dynamic": False}
    assert asked == [{"mode": "default", **shapes}, {"mode": "reduce-overhead", **shapes}]


def test_only_cuda_graphs_are_marked_where_a_step_begins(monkeypatch):
    marked = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marked.append(1))
    for mode, times in ((False, 0), (True, 0), ("reduce-overhead", 1), ("max-autotune", 2)):
        begin_step(TrainConfig(compile=mode))
        assert len(marked) == times
