"""The steps that are measured are the steps that train."""

from typing import Any

import pytest
import torch

from mae.bench import training_step
from mae.bench.cases import OURS, TEXTBOOK, TRANSFORMERS, Case
from mae.bench.training_step import (
    LR,
    build_step,
    transformers_model,
)
from mae.errors import UserError
from mae.models.encoder import build_encoder
from mae.models.mae import MaskedAutoencoder, build_mae
from mae.training.meter import Meter
from mae.training.optim import parameter_groups

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)


def tiny_model() -> MaskedAutoencoder:
    config = TINY.config()
    torch.manual_seed(0)
    return build_mae(config.model, config.data.mean, config.data.std)


def test_our_step_is_adamw_on_our_loss():
    step = build_step(TINY)
    found = [step().item() for _ in range(3)]
    model = tiny_model()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=LR, betas=(0.9, 0.95))
    for taken, loss in enumerate(found, start=1):
        output = model(images, model.draw(images, torch.arange(2) + 2 * taken))
        assert output.loss.item() == pytest.approx(loss, rel=1e-4)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()


def test_a_step_that_is_not_finite_changes_nothing(monkeypatch):
    """The guard is part of what is measured."""
    step = build_step(TINY)
    before = step().item()
    normal = MaskedAutoencoder.draw
    spoilt = {"draw": True}

    def draw(self, images, seeds, labels=None):
        if spoilt.pop("draw", False):
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(lambda gradient: gradient * float("nan"))
                    break
        return normal(self, images, torch.arange(2))

    monkeypatch.setattr(MaskedAutoencoder, "draw", draw)
    losses = [step().item() for _ in range(3)]
    assert losses[0] == losses[1] == losses[2] and before > 0


def test_numbers_are_read_now_and_then_as_in_the_loop(monkeypatch):
    reads = []
    read = Meter.read
    monkeypatch.setattr(Meter, "read", lambda *args: reads.append(1) or read(*args))
    step = build_step(TINY)
    monkeypatch.setattr(training_step, "REPORT_EVERY", 2)
    for _ in range(5):
        step()
    assert len(reads) == 2


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


def test_an_unknown_model_is_told():
    with pytest.raises(UserError, match="did you mean vit_tiny_patch16_224"):
        build_step(TINY._replace(encoder="vit_tiny_patch16_225"))


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
