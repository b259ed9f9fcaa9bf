"""Frozen critics and spectral normalisation, against two optimizers and torch's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mae.objectives.autoencoders.adversarial import (
    SpectralNorm,
    frozen_call,
    update_spectral_norms,
)
from mae.objectives.base import StepEnd

LAYERS = {
    "linear": lambda: nn.Linear(6, 9),
    "convolution": lambda: nn.Conv2d(3, 8, 4, stride=2, padding=1),
}
INPUTS = {"linear": (5, 6), "convolution": (5, 3, 8, 8)}


def step_end(skipped: bool = False) -> StepEnd:
    return StepEnd(1, 0, torch.tensor(skipped), {})


def patch_critic() -> nn.Sequential:
    """Critic of patches, with batch statistics among its buffers."""
    torch.manual_seed(0)
    return nn.Sequential(
        SpectralNorm(nn.Conv2d(1, 4, 4, stride=2)),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        SpectralNorm(nn.Conv2d(4, 1, 3)),
    ).double()


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if one.grad is None else one.grad.clone() for one in module.parameters()]


def test_one_backward_pass_equals_two_optimizers():
    critic, generator = patch_critic().eval(), nn.Conv2d(1, 1, 3, padding=1).double()
    images = torch.rand(6, 1, 10, 10).double()
    made = generator(images)
    judged = F.relu(1 - critic(images)).mean() + F.relu(1 + critic(made.detach())).mean()
    (judged - 0.3 * frozen_call(critic, made).mean()).backward()
    ours = gradients(critic), gradients(generator)

    of_critic = torch.optim.SGD(critic.parameters())
    of_generator = torch.optim.SGD(generator.parameters())
    of_critic.zero_grad()
    of_generator.zero_grad()
    made = generator(images)
    (-0.3 * critic(made).mean()).backward()
    of_critic.zero_grad()  # the generator's loss does not train the critic
    (F.relu(1 - critic(images)).mean() + F.relu(1 + critic(made.detach())).mean()).backward()
    for mine, theirs in zip(ours, (gradients(critic), gradients(generator)), strict=True):
        assert sum(float(one.abs().sum()) for one in mine if one is not None) > 0.1
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)


def test_a_frozen_call_leaves_the_module_as_it_was():
    critic = patch_critic().eval()
    names = [name for name, _ in critic.named_parameters()]
    images = torch.rand(3, 1, 10, 10).double().requires_grad_()
    assert torch.equal(frozen_call(critic, images), critic(images))
    frozen_call(critic, images).sum().backward()
    assert images.grad is not None and gradients(critic) == [None] * len(names)
    assert [name for name, one in critic.named_parameters() if one.requires_grad] == names


@pytest.mark.parametrize("kind", LAYERS)
def test_the_weight_has_spectral_norm_one_once_converged(kind):
    torch.manual_seed(0)
    normed = SpectralNorm(LAYERS[kind]()).double()
    with torch.no_grad():
        normed.layer.weight.mul_(7)
    for _ in range(300):
        update_spectral_norms(nn.Sequential(normed), step_end())
    exact = torch.linalg.matrix_norm(normed.matrix(), 2)
    torch.testing.assert_close(normed.norm(), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", LAYERS)
def test_steps_equal_those_of_torch(kind):
    """Output, gradient and vectors over optimizer steps, in which torch iterates in `forward`."""
    torch.manual_seed(0)
    layer = LAYERS[kind]().double()
    theirs = spectral_norm(copy.deepcopy(layer))
    ours = SpectralNorm(layer).double()
    parametrization = theirs.get_submodule("parametrizations.weight.0")
    ours.left.copy_(parametrization.get_buffer("_u"))
    ours.right.copy_(parametrization.get_buffer("_v"))
    update_spectral_norms(ours, step_end())  # torch iterates before the first step, too
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.5) for one in (ours, theirs)]
    for _ in range(4):
        inputs = torch.randn(INPUTS[kind]).double()
        outputs = [one(inputs) for one in (ours, theirs)]
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-13)
        torch.testing.assert_close(ours.left, parametrization.get_buffer("_u"), rtol=0, atol=1e-13)
        for optimizer, output in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            output.square().mean().backward()
            optimizer.step()
        found, expected = (
            ours.layer.weight,
            theirs.get_parameter("parametrizations.weight.original"),
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        update_spectral_norms(ours, step_end())


def test_a_skipped_step_and_a_forward_pass_change_no_vector():
    torch.manual_seed(0)
    normed = SpectralNorm(nn.Linear(6, 9))
    normed.layer.weight.data.normal_()
    before = copy.deepcopy(normed.state_dict())
    normed.train()(torch.rand(2, 6))
    update_spectral_norms(normed, step_end(skipped=True))
    assert all(torch.equal(one, before[name]) for name, one in normed.state_dict().items())
    update_spectral_norms(normed, step_end())
    assert not torch.equal(normed.left, before["left"])
