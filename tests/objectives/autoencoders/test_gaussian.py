"""KL divergence and bound of a variational autoencoder against torch.distributions."""

from math import log

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from mae.objectives.autoencoders.backbones import encode_map
from mae.objectives.autoencoders.gaussian import gaussian_kl
from mae.objectives.base import total_loss
from tests.objectives.autoencoders.small import DONE, build, pictures, seeds


def test_kl_equals_torch_distributions():
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    expected = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("latent", ["vector", "map"])
def test_the_losses_are_the_bound_of_torch_distributions(latent):
    model = build("vae", latent=latent, latent_dim=3, sigma=0.7).double()
    images = pictures()
    noise = model.draw(images, seeds())
    output = model(images, noise, DONE)
    target = model.normalize(images)
    mean, log_variance = model.bottleneck.posterior(encode_map(model.encoder, target))
    posterior = Normal(mean, (0.5 * log_variance).exp())
    sample = mean + posterior.scale * noise.latent.double().view_as(mean)
    pixels = Normal(model.decoder(model.from_latent(sample)), model.log_sigma.exp())
    kl = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    nats = -pixels.log_prob(target).flatten(1).sum(1) + kl.flatten(1).sum(1)
    values = target[0].numel()
    total = total_loss(output)
    torch.testing.assert_close(total, nats.mean() / values, rtol=1e-10, atol=0)
    torch.testing.assert_close(output.statistics["kl_nats"], kl.flatten(1).sum(1).mean())
    level = log(255 * 0.3)
    torch.testing.assert_close(output.statistics["nll"], total.detach() + level)


def test_the_bound_is_below_the_likelihood_and_tight_for_the_true_posterior():
    """Monte Carlo of log p(x) by importance sampling is at least the bound."""
    model = build("vae", latent_dim=2, sigma=1.0).double()
    images = pictures(1)
    target = model.normalize(images)
    mean, log_variance = model.bottleneck.posterior(encode_map(model.encoder, target))
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    with torch.no_grad():
        samples = posterior.sample((4000,))[:, 0]
        decoded = model.decoder(model.from_latent(samples))
        likelihood = Normal(decoded, model.log_sigma.exp()).log_prob(target).flatten(1).sum(1)
        prior = Normal(0.0, 1.0).log_prob(samples).sum(1)
        weights = likelihood + prior - posterior.log_prob(samples)
        bound = weights.mean()
        evidence = weights.logsumexp(0) - log(len(weights))
        kl = gaussian_kl(mean, log_variance).sum()
    torch.testing.assert_close(bound, likelihood.mean() - kl, rtol=0, atol=0.1)
    assert evidence >= bound


def test_free_bits_cost_nothing_below_the_threshold():
    model = build("vae", latent_dim=3, free_bits=50.0)
    images = pictures()
    output = model(images, model.draw(images, seeds()), DONE)
    values = images[0].numel()
    torch.testing.assert_close(output.losses["kl"], torch.tensor(3 * 50.0 / values))


def test_beta_rises_over_the_warm_up():
    model = build("vae", latent_dim=3, beta=4.0, beta_warmup=0.5)
    images = pictures()
    noise = model.draw(images, seeds())
    at = [model(images, noise, torch.tensor(p)).losses["kl"].item() for p in (0.0, 0.25, 0.5, 1.0)]
    assert at[0] == 0 and at[1] == pytest.approx(at[2] / 2) and at[2] == pytest.approx(at[3])
