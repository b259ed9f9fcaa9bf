"""The steps of others, which ours is compared with."""

from typing import Any

import pytest
import torch

from benchmarks.others import TEXTBOOK, TRANSFORMERS, build_step, transformers_model
from mae.base.errors import UserError
from mae.bench.cases import OURS, Case
from mae.networks.vit import build_encoder
from mae.objectives.mae.model import MaskedAutoencoder, build_mae

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)


def tiny_model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return build_mae(TINY.config())


@pytest.mark.parametrize("implementation", [TEXTBOOK, TRANSFORMERS])
def test_the_others_learn_too(implementation):
    step = build_step(TINY._replace(implementation=implementation))
    losses = [step().item() for _ in range(12)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_transformers_model_has_our_sizes():
    ours = tiny_model()
    theirs: Any = transformers_model(ours)
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, theirs)]
    assert trained[0] == trained[1]
    assert theirs.config.mask_ratio == 0.75 and theirs.config.norm_pix_loss is True
    assert theirs.config._attn_implementation == "sdpa"


def test_sizes_that_transformers_cannot_have():
    encoder = build_encoder("vit_tiny_patch16_224", img_size=(16, 32), embed_dim=32, num_heads=2)
    with pytest.raises(UserError, match="ViTMAE is square and has one class token"):
        transformers_model(MaskedAutoencoder(encoder, decoder_depth=1, mask_ratio=0.5))


@pytest.mark.parametrize(
    ("implementation", "mode", "asked"),
    [
        (OURS, "eager", []),
        (OURS, "compile", [{"mode": "default", "fullgraph": True, "dynamic": False}]),
        (TEXTBOOK, "compile", [{"mode": "default", "fullgraph": False, "dynamic": False}]),
        (OURS, "max-autotune", [{"mode": "max-autotune", "fullgraph": True, "dynamic": False}]),
    ],
)
def test_modes_are_those_of_a_run(implementation, mode, asked, monkeypatch):
    """Others may break their graph, which ours must not."""
    found = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: found.append(options))
    build_step(TINY._replace(implementation=implementation, mode=mode))
    assert found == asked
