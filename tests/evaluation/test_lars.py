import numpy as np
import pytest
import torch
from torch import nn

from mae.evaluation.lars import LARS, TRUST


def reference(weights, gradients, rates, momentum, weight_decay):
    """The equations of the docstring in plain NumPy, one weight matrix, step after step."""
    velocity, path = np.zeros_like(weights), []
    for gradient, lr in zip(gradients, rates, strict=True):
        change = gradient
        if weights.ndim > 1:
            change = gradient + weight_decay * weights
            own = np.sqrt((weights**2).sum())
            length = np.sqrt((change**2).sum())
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
    optimizer = LARS([weights], lr=0.0, momentum=0.9, weight_decay=weight_decay)
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
        LARS([weights], lr=5.0).step()
        moved = (weights.detach() - 2).norm() / 8  # the weights' length is 8
        assert moved.item() == pytest.approx(5 * TRUST)


def test_vectors_are_neither_scaled_nor_decayed():
    bias = nn.Parameter(torch.tensor([1.0, 2.0]))
    bias.grad = torch.tensor([0.5, 0.0])
    LARS([bias], lr=0.1, weight_decay=9.0).step()
    assert bias.tolist() == pytest.approx([0.95, 2.0])


def test_zeros_can_be_left_and_no_gradient_is_no_step():
    zeros, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zeros.grad = torch.ones(2, 2)
    optimizer = LARS([zeros, still], lr=0.1)
    optimizer.step()
    assert zeros.detach().unique().tolist() == pytest.approx([-0.1])
    assert still.detach().unique().tolist() == [1]
    zeros.grad = torch.zeros(2, 2)
    optimizer.step()
    assert zeros.isfinite().all()
