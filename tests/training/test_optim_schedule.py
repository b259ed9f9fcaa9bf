import math

import numpy as np
import pytest

from mae.training.optim import lr_at, scaled_lr

PAPER = {"lr": 2.4e-3, "min_lr": 0.0, "warmup_epochs": 40.0, "epochs": 800.0}


def official(epoch, lr, min_lr, warmup_epochs, epochs):
    """The schedule of the official release, its formula as it stands there."""
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    return min_lr + (lr - min_lr) * 0.5 * (
        1.0 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs))
    )


@pytest.mark.parametrize("min_lr", [0.0, 1e-5])
@pytest.mark.parametrize(("warmup_epochs", "epochs"), [(40, 800), (0, 10), (0.5, 1.25)])
def test_follows_the_official_formula(min_lr, warmup_epochs, epochs):
    settings = {"lr": 1e-3, "min_lr": min_lr, "warmup_epochs": warmup_epochs, "epochs": epochs}
    for epoch in np.linspace(0, epochs, 101):
        assert lr_at(epoch, **settings) == pytest.approx(official(epoch, **settings), abs=1e-15)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0), (10, 0.6e-3), (20, 1.2e-3), (40, 2.4e-3), (420, 1.2e-3), (800, 0), (900, 0)],
)
def test_known_points(epoch, expected):
    assert lr_at(epoch, **PAPER) == pytest.approx(expected, abs=1e-12)


def test_rises_then_falls_without_a_jump():
    rates = [lr_at(epoch, **PAPER) for epoch in np.arange(0, 800, 0.1)]
    assert np.all(np.diff(rates[:400]) > 0) and np.all(np.diff(rates[400:]) < 0)
    assert np.abs(np.diff(rates)).max() <= 2.4e-3 * 0.1 / 40 * 1.001


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert lr_at(0, lr=0.1, min_lr=0.01, warmup_epochs=0, epochs=5) == pytest.approx(0.1)


def test_ends_at_min_lr_and_stays_there():
    settings = PAPER | {"min_lr": 1e-5}
    assert lr_at(800, **settings) == lr_at(1e6, **settings) == pytest.approx(1e-5)


def test_scaled_lr_is_linear_in_the_batch():
    assert scaled_lr(1.5e-4, 256) == 1.5e-4
    assert scaled_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)
