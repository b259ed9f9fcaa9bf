"""LARS (You, Gitman, Ginsburg 2017), as timm has it with our rules for vectors."""

import numpy as np
import pytest
import torch
from torch import nn

from mae.config.sections import OptimConfig
from mae.training.optim import build_optimizer

TRUST = 0.001


def lars(parameters, lr=0.0, weight_decay=0.0):
    """Each parameter in a group of its own."""
    groups = [{"params": [one], "weight_decay": weight_decay} for one in parameters]
    optimizer = build_optimizer(groups, OptimConfig(name="lars", betas=(0.9, 0.999)))
    for group in optimizer.param_groups:
        group["lr"] = lr
    return optimizer


def reference(weights, gradients, rates, momentum, weight_decay):
    """The paper's algorithm 1 in plain NumPy, one weight matrix, step after step."""
    velocity, path = np.zeros_like(weights), []
    for gradient, lr in zip(gradients, rates, strict=True):
        change = gradient
        if weights.ndim > 1:
            change = gradient + weight_decay * weights
            own = np.sqrt((weights**2).sum())
            length = np.sqrt((gradient**2).sum()) + weight_decay * own
            if own > 0 and length > 0:
                change = change * (0.001 * own / length)
        velocity = momentum * velocity + change
        weights = weights - lr * velocity
        path.append(weights)
    return path


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 4)])
def test_equal_to_the_paper_in_numpy_over_several_steps(shape, weight_decay):
    rng = np.random.default_rng(0)
    start = rng.standard_normal(shape)
    gradients = [10.0**power * rng.standard_normal(shape) for power in (0, -6, 6, 0, 2)]
    rates = [0.1, 3.2, 6.4, 1.0, 0.0]
    weights = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = lars([weights], weight_decay=weight_decay if len(shape) > 1 else 0.0)
    expected = reference(start, gradients, rates, 0.9, weight_decay)
    for gradient, lr, wanted in zip(gradients, rates, expected, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        weights.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose(weights.detach().numpy(), wanted, rtol=1e-12)


def test_a_first_step_is_as_long_as_lr_times_trust_whatever_the_gradient():
    for size in (1e-8, 1.0, 1e8):
        weights = nn.Parameter(torch.full((4, 4), 2.0, dtype=torch.float64))
        weights.grad = torch.full((4, 4), size, dtype=torch.float64)
        lars([weights], lr=5.0).step()
        moved = (weights.detach() - 2).norm() / 8  # the weights' length is 8
        assert moved.item() == pytest.approx(5 * TRUST)


def test_vectors_are_neither_scaled_nor_decayed():
    bias = nn.Parameter(torch.tensor([1.0, 2.0]))
    bias.grad = torch.tensor([0.5, 0.0])
    lars([bias], lr=0.1).step()
    assert bias.tolist() == pytest.approx([0.95, 2.0])


def test_zeros_can_be_left_and_no_gradient_is_no_step():
    zeros, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zeros.grad = torch.ones(2, 2)
    optimizer = lars([zeros, still], lr=0.1)
    optimizer.step()
    assert zeros.detach().unique().tolist() == pytest.approx([-0.1])
    assert still.detach().unique().tolist() == [1]
    zeros.grad = torch.zeros(2, 2)
    optimizer.step()
    assert zeros.isfinite().all()
