"""Critic and losses of an adversarial autoencoder against two optimizers and known distances."""

import copy

import pytest
import torch
import torch.nn.functional as F

from mae.objectives.aae.bottleneck import build_critic
from mae.objectives.autoencoders.adversarial import update_spectral_norms
from mae.objectives.base import StepEnd, total_loss
from tests.objectives.autoencoders.small import DONE, NO_PROGRESS, build, pictures, seeds


def step_end(skipped: bool = False) -> StepEnd:
    return StepEnd(1, 0, torch.tensor(skipped), {})


def adam(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), eps=1e-3)


def test_one_optimizer_steps_as_two_do():
    """The first step of both, written as in the paper: first the critic's, then the encoder's."""
    ours = build("aae", critic_width=16, adv=0.25).double()
    theirs = copy.deepcopy(ours)
    images = pictures()
    noise = ours.draw(images, seeds())
    optimizer = adam(ours.parameters())
    total_loss(ours(images, noise, DONE)).backward()
    assert all(one.grad is not None for one in ours.parameters())
    optimizer.step()

    critic, before = theirs.bottleneck.critic, copy.deepcopy(theirs.bottleneck.critic)
    own = list(critic.parameters())
    of_critic = adam(own)
    of_others = adam(one for name, one in theirs.named_parameters() if ".critic." not in name)
    latents = theirs.latents(images)
    (critic(latents.detach()).mean() - critic(noise.latent.double()).mean()).backward()
    of_critic.step()
    target = theirs.normalize(images)
    made = theirs.decoder(theirs.from_latent(latents))
    (F.mse_loss(made, target) - 0.25 * before(latents).mean()).backward()
    of_others.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12, msg=name)


def test_the_critic_has_a_lipschitz_constant_of_one():
    torch.manual_seed(0)
    critic = build_critic(8, 32).double()
    for _ in range(200):
        update_spectral_norms(critic, step_end())
    points = (3 * torch.randn(500, 8)).double().requires_grad_()
    (slopes,) = torch.autograd.grad(critic(points).sum(), points)
    assert 0.1 < slopes.norm(dim=1).max() <= 1 + 1e-9


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_its_estimate_is_the_wasserstein_distance(shift):
    """Of normal distributions that differ in their means, it is the distance of the means."""
    torch.manual_seed(0)
    critic = build_critic(8, 32)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    found = []
    for step in range(400):
        latents = torch.randn(256, 8) + shift * F.one_hot(torch.tensor(3), 8)
        distance = critic(torch.randn(256, 8)).mean() - critic(latents).mean()
        optimizer.zero_grad()
        (-distance).backward()
        optimizer.step()
        update_spectral_norms(critic, step_end())
        if step >= 350:
            found.append(distance.detach())
    assert abs(torch.stack(found).mean().item() - shift) < 0.1


def test_only_the_encoders_term_is_scaled_in():
    model = build("aae", adv=0.3, adv_warmup=0.5)
    images = pictures()
    noise = model.draw(images, seeds())
    start, middle, late = (
        model(images, noise, progress).losses
        for progress in (NO_PROGRESS, torch.tensor(0.25), torch.tensor(0.75))
    )
    assert start["generator"] == 0 and late["generator"] != 0
    torch.testing.assert_close(2 * middle["generator"], late["generator"])
    assert start["critic"] == late["critic"] and start["reconstruction"] == late["reconstruction"]
    assert model(images, noise, DONE).statistics["distance"] == -start["critic"]


def test_a_skipped_step_leaves_the_critic_alone():
    model = build("aae", critic_width=16)
    for weight in model.bottleneck.critic.parameters():
        weight.data.normal_()
    before = copy.deepcopy(model.state_dict())
    model.after_step(step_end(skipped=True))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    model.after_step(step_end())
    changed = {
        name for name, one in model.state_dict().items() if not torch.equal(one, before[name])
    }
    vectors = {f"bottleneck.critic.{at}.{side}" for at in (0, 2) for side in ("left", "right")}
    assert changed == vectors | {"bottleneck.critic.4.right"}  # of one row, the left one is ±1
