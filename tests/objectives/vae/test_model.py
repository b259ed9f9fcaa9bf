"""Noise model and optimizer groups of a variational autoencoder."""

import torch

from mae.objectives.base import total_loss
from mae.objectives.registry import implementation
from tests.objectives.autoencoders.small import DONE, build, pictures, seeds, small_config


def test_sigma_learns_ten_times_as_fast_and_without_decay():
    model = build("vae", latent_dim=3)
    groups = implementation("vae").parameter_groups(model, small_config("vae", latent_dim=3))
    (group,) = (one for one in groups if any(p is model.log_sigma for p in one["params"]))
    assert group["lr_scale"] == 10 and group["weight_decay"] == 0 and len(group["params"]) == 1
    listed = [id(p) for one in groups for p in one["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())


def test_the_best_sigma_is_the_root_mean_square_error():
    model = build("vae", latent_dim=3).double()
    images = pictures()
    target = model.normalize(images)
    errors = (model.normalize(images) * 0.1 - target).square()
    model.log_sigma.data.fill_(errors.mean().sqrt().log().item())
    loss = model.reconstruction_loss(errors)
    (gradient,) = torch.autograd.grad(loss, model.log_sigma)
    assert abs(gradient.item()) < 1e-12


def test_a_fixed_sigma_is_not_trained():
    model = build("vae", latent_dim=3, learn_sigma=False, sigma=0.5)
    images = pictures()
    total_loss(model(images, model.draw(images, seeds()), DONE)).backward()
    assert model.log_sigma.grad is None
    config = small_config("vae", latent_dim=3, learn_sigma=False)
    groups = implementation("vae").parameter_groups(model, config)
    assert all(p is not model.log_sigma for one in groups for p in one["params"])
