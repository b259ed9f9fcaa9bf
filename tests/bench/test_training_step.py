"""The steps that are measured are the steps that train."""

import pytest
import torch

from mae.base.errors import UserError
from mae.bench import training_step
from mae.bench.cases import Case
from mae.bench.training_step import LR, build_step
from mae.networks.parameter_groups import parameter_groups
from mae.objectives.base import total_loss
from mae.objectives.mae.model import MaskedAutoencoder, build_mae
from mae.training.meter import Meter

TINY = Case(encoder="vit_tiny_patch16_224", img_size=32, decoder_depth=1, batch_size=2)


def tiny_model() -> MaskedAutoencoder:
    config = TINY.config()
    torch.manual_seed(0)
    return build_mae(config)


def test_our_step_is_adamw_on_our_loss():
    step = build_step(TINY)
    found = [step().item() for _ in range(3)]
    model = tiny_model()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=LR, betas=(0.9, 0.95))
    for taken, loss in enumerate(found, start=1):
        noise = model.draw(images, torch.arange(2) + 2 * taken)
        expected = total_loss(model(images, noise, torch.zeros(())))
        assert expected.item() == pytest.approx(loss, rel=1e-4)
        optimizer.zero_grad()
        expected.backward()
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


def test_an_unknown_model_is_told():
    with pytest.raises(UserError, match="did you mean vit_tiny_patch16_224"):
        build_step(TINY._replace(encoder="vit_tiny_patch16_225"))


@pytest.mark.parametrize(
    ("mode", "asked"),
    [
        ("eager", []),
        ("compile", [{"mode": "default", "fullgraph": True, "dynamic": False}]),
        ("max-autotune", [{"mode": "max-autotune", "fullgraph": True, "dynamic": False}]),
    ],
)
def test_modes_are_those_of_a_run(mode, asked, monkeypatch):
    found = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: found.append(options))
    build_step(TINY._replace(mode=mode))
    assert found == asked
