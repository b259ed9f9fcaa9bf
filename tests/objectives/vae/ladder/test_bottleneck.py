"""Ladder of groups against torch.distributions: KL of each group, the bound by Monte Carlo."""

from math import log
from typing import Any, NamedTuple

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mae.base.errors import UserError
from mae.objectives.autoencoders.backbones import MapShape, encode_map
from mae.objectives.autoencoders.gaussian import KlWeight
from mae.objectives.base import StepEnd, total_loss
from mae.objectives.vae.ladder.bottleneck import DECAY, LEAST, LadderBottleneck
from tests.objectives.autoencoders.small import DONE, NO_PROGRESS, build, pictures, seeds


def ladder(groups: tuple[int, ...] = (2, 3), sigma: float = 0.7) -> Any:
    """Ladder in float64, whose priors and posteriors are far from standard."""
    built = build("ladder", groups=groups, sigma=sigma).double()
    for group in built.bottleneck.groups:
        for layer in filter(None, (group.prior, group.posterior)):
            torch.nn.init.normal_(layer.bias, std=0.7)
            torch.nn.init.normal_(layer.weight, std=0.3)
    return built


class Walk(NamedTuple):
    """Top-down pass in the units of z, by torch.distributions."""

    priors: list[Normal]
    posteriors: list[Normal]
    values: list[torch.Tensor]
    state: torch.Tensor


def walk(model: Any, target: torch.Tensor, noise: torch.Tensor) -> Walk:
    """Prior, posterior and drawn z of both groups, from the definition."""
    own = model.bottleneck
    fine = encode_map(model.encoder, target)
    maps = [own.down[0](fine), fine]
    drawn = [noise[:, :8].view(-1, 2, 2, 2), noise[:, 8:].view(-1, 3, 4, 4)]
    state, found = own.start.expand(len(target), -1, -1, -1), Walk([], [], [], fine)
    for place, group in enumerate(own.groups):
        prior = Normal(torch.zeros_like(drawn[place]), torch.ones_like(drawn[place]))
        if place:
            mean, log_sigma = group.prior(group.prior_block(state)).chunk(2, 1)
            prior = Normal(mean, (5 * torch.tanh(log_sigma / 5)).exp())
        both = group.posterior_block(torch.cat([state, maps[place]], 1))
        delta, log_variance = group.posterior(both).chunk(2, 1)
        scale = prior.scale * (log_variance / 2).exp()
        posterior = Normal(prior.loc + prior.scale * delta, scale)
        z = posterior.loc + posterior.scale * drawn[place]
        found.priors.append(prior)
        found.posteriors.append(posterior)
        found.values.append(z)
        state = state + group.enter(z)
        state = own.up[0](state) if place == 0 else state
    return found._replace(state=state)


def summed(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).sum(1)


def test_kl_and_losses_of_both_groups_are_those_of_torch_distributions():
    model, images = ladder(), pictures()
    noise = model.draw(images, seeds())
    output, target = model(images, noise, DONE), model.normalize(images).double()
    found = walk(model, target, noise.latent.double())
    pairs = zip(found.posteriors, found.priors, strict=True)
    kls = torch.stack([summed(kl_divergence(q, p)) for q, p in pairs])
    assert kls.min() > 1  # nothing is near zero
    expected = kls.sum(dim=1)
    torch.testing.assert_close(output.statistics["group_nats"], expected, rtol=1e-6, atol=0)
    pixels = Normal(model.decoder(model.from_latent(found.state)), model.log_sigma.exp())
    nats = -summed(pixels.log_prob(target)) + kls.sum(0)
    torch.testing.assert_close(total_loss(output), nats.mean() / 256, rtol=1e-6, atol=0)
    torch.testing.assert_close(output.statistics["kl_nats"], kls.sum(0).mean(), rtol=1e-6, atol=0)


@torch.no_grad()
def test_the_bound_is_that_of_monte_carlo_and_below_the_likelihood():
    model, image = ladder(sigma=1.0), pictures(1)
    target, count = model.normalize(image).double().expand(3000, -1, -1, -1), 3000
    noise = torch.randn(count, 56, generator=torch.Generator().manual_seed(0)).double()
    found = walk(model, target, noise)
    pixels = Normal(model.decoder(model.from_latent(found.state)), model.log_sigma.exp())
    weights = summed(pixels.log_prob(target))
    for prior, posterior, z in zip(found.priors, found.posteriors, found.values, strict=True):
        weights = weights + summed(prior.log_prob(z)) - summed(posterior.log_prob(z))
    rows = torch.arange(count)
    output = model(image.expand(count, -1, -1, -1), model.draw(image, rows), DONE)
    error = 5 * weights.std() / count**0.5
    assert abs(-total_loss(output) * 256 - weights.mean()) < 2 * error
    assert weights.logsumexp(0) - log(count) >= weights.mean()


@torch.no_grad()
def test_latents_are_decoded_by_the_pass_that_drew_them():
    model, images = ladder(), pictures()
    features = encode_map(model.encoder, model.normalize(images).double())
    own, noise = model.bottleneck, model.draw(images, seeds()).latent.double()
    inferred = own.infer(features, noise)
    drawn = inferred.mean + (inferred.log_variance / 2).exp() * noise
    torch.testing.assert_close(own.states(drawn), inferred.values)
    assert torch.equal(own.states(own.encode(features)), own.infer(features, None).values)
    made = model.reconstruct(images, model.draw(images, seeds())).pasted
    assert torch.equal(model.decode(model.latents(images)), made)


@torch.no_grad()
def test_samples_are_drawn_from_the_priors_one_given_the_other():
    model = ladder()
    own, noise = model.bottleneck, model.bottleneck.draw(seeds()).double()
    for temperature in (1.0, 0.3):
        coarse, fine = own.by_group(temperature * noise)
        state = own.up[0](own.start + own.groups[0].enter(coarse))
        group = own.groups[1]
        mean, log_sigma = group.prior(group.prior_block(state)).chunk(2, 1)
        z = mean + (5 * torch.tanh(log_sigma / 5)).exp() * fine
        expected = model.decoder(model.from_latent(state + group.enter(z)))
        made = model.sample(seeds(), temperature)
        torch.testing.assert_close(made, model.unit(expected).clamp(0, 1))
    torch.testing.assert_close(model.sample(seeds()[2:3]), model.sample(seeds())[2:3])


def test_while_beta_rises_groups_are_weighed_by_their_usual_nats():
    model = build("ladder", groups=(2, 3), beta=2.0, beta_warmup=0.5)
    own = model.bottleneck
    own.usual_nats.copy_(torch.tensor([8.0, 24.0]))  # 1 and .5 nats per latent
    shares = torch.tensor([1 + LEAST, 0.5 + LEAST])
    shares = (shares / shares.mean()).repeat_interleave(torch.tensor([8, 48]))
    torch.testing.assert_close(own.weight(torch.tensor(0.25)), shares * 1.0 / 256)
    for progress in (0.5, 0.9):  # the bound itself, times beta
        weights = own.weight(torch.tensor(progress))
        torch.testing.assert_close(weights, torch.full((56,), 2.0 / 256))
    own.balance = False
    assert own.weight(torch.tensor(0.25)) == 1.0 / 256
    assert own.weight(NO_PROGRESS) == 0


def test_the_usual_nats_move_by_all_images_and_not_by_skipped_steps():
    own = ladder().bottleneck
    carry = {"group_nats": torch.tensor([30.0, 60.0]), "images": torch.tensor(6.0)}
    own.after_step(StepEnd(1, 0, torch.tensor(True), carry))
    assert own.usual_nats.tolist() == [0, 0]
    own.after_step(StepEnd(1, 0, torch.tensor(False), carry))
    torch.testing.assert_close(own.usual_nats.tolist(), [5 * (1 - DECAY), 10 * (1 - DECAY)])


def test_every_parameter_gets_a_gradient():
    model, images = ladder(groups=(2, 3, 1)), pictures()
    total_loss(model(images, model.draw(images, seeds()), DONE)).backward()
    assert all(one.grad is not None and one.grad.any() for one in model.parameters())


def test_a_grid_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"model\.groups: 3 groups need a grid that divides by 4"):
        weight = KlWeight(1.0, 0.0, 0.0, 256)
        LadderBottleneck(MapShape(16, 6, 8), (1, 1, 1), kl=weight, depth=1, balance=True)
