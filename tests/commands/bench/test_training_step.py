"""The measured training step: the same as in training, for any objective."""

import pytest
import torch

from mae.base.errors import UserError
from mae.commands.bench import training_step
from mae.commands.bench.cases import Case
from mae.commands.bench.rounds import gflop_per_image
from mae.commands.bench.training_step import LR, build_step, synthetic_images
from mae.config.loading import load_config
from mae.networks.vit import parameter_groups
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
    for number, loss in enumerate(found, start=1):
        noise = model.draw(images, torch.arange(2) + 2 * number)
        expected = total_loss(model(images, noise, torch.zeros(())))
        assert expected.item() == pytest.approx(loss, rel=1e-4)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()


def test_a_step_that_is_not_finite_changes_nothing(monkeypatch):
    """The measured step includes the guard."""
    step = build_step(TINY)
    before = step().item()
    normal = MaskedAutoencoder.draw
    pending = {"draw": True}

    def draw(self, images, seeds, labels=None):
        if pending.pop("draw", False):
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(lambda gradient: gradient * float("nan"))
                    break
        return normal(self, images, torch.arange(2))

    monkeypatch.setattr(MaskedAutoencoder, "draw", draw)
    losses = [step().item() for _ in range(3)]
    assert losses[0] == losses[1] == losses[2] and before > 0


def test_the_meter_is_read_as_often_as_in_the_loop(monkeypatch):
    reads = []
    read = Meter.read
    monkeypatch.setattr(Meter, "read", lambda *args: reads.append(1) or read(*args))
    step = build_step(TINY)
    monkeypatch.setattr(training_step, "METER_EVERY", 2)
    for _ in range(5):
        step()
    assert len(reads) == 2


def test_an_unknown_model_is_an_error():
    with pytest.raises(UserError, match="did you mean vit_tiny_patch16_224"):
        build_step(TINY._replace(encoder="vit_tiny_patch16_225"))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("eager", []),
        ("compile", [{"mode": "default", "fullgraph": True, "dynamic": False}]),
        ("max-autotune", [{"mode": "max-autotune", "fullgraph": True, "dynamic": False}]),
    ],
)
def test_modes_are_those_of_a_run(mode, options, monkeypatch):
    found = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: found.append(options))
    build_step(TINY._replace(mode=mode))
    assert found == options


@pytest.mark.parametrize("name", ["toy", "classifier"])
def test_steps_of_any_objective(name, request):
    one = Case(config_file=str(request.getfixturevalue(name)), batch_size=4)
    step = build_step(one)
    losses = [step().item() for _ in range(3)]
    assert all(loss > 0 for loss in losses) and len(set(losses)) == 3
    assert gflop_per_image(one) > 0
    assert one.model == name


def test_images_have_the_bits_of_the_settings(toy):
    sixteen = ["data.bits=16", "data.in_chans=2", "data.mean=[0.5, 0.5]", "data.std=[1, 1]"]
    images = synthetic_images(load_config(toy, sixteen), (8, 8), 64)
    assert images.shape == (64, 2, 8, 8) and images.int().max() > 255
