"""Samples and traversals of the autoencoders with a standard normal prior."""

import numpy as np
import pytest
import torch

from mae.objectives.autoencoders.gaussian_prior import (
    LATENTS,
    VALUES,
    sample_block,
    traversals,
)
from mae.objectives.vae.implementation import latent_nats
from tests.objectives.autoencoders.small import build, pictures, seeds

CASES = [("vae", "vector"), ("vae", "map"), ("aae", "vector")]


@pytest.mark.parametrize(("name", "latent"), CASES)
@torch.no_grad()
def test_a_traversal_changes_one_latent_of_the_first_image(name, latent):
    model = build(name, latent=latent, latent_dim=7)
    images, scores = pictures(), torch.tensor([0.3, 2.0, 1.0, 0.1, 0.5, 0.2, 0.4])
    found = traversals(model, images, scores)
    assert [one.latent for one in found] == [1, 2, 4, 6, 0] and len(found) == LATENTS
    own = model.latents(images)[:1]
    for one in found:
        for value, picture in zip(VALUES, one.pictures, strict=True):
            changed = own.clone()
            changed[:, one.latent] = value
            torch.testing.assert_close(picture, model.decode(changed)[0])


@torch.no_grad()
def test_the_most_active_latent_comes_first():
    model = build("vae", latent_dim=4)
    layer = model.bottleneck.to_latent.layer
    layer.weight[[0, 1, 3]] *= 0.01
    layer.weight[2] *= 30
    found = traversals(model, pictures(), latent_nats(model, pictures()))
    assert found[0].latent == 2 and len(found) == 4  # no more than there are


@pytest.mark.parametrize("name", ["vae", "aae"])
def test_samples_are_the_same_every_time(name):
    model = build(name)
    first, again, other = (
        np.asarray(sample_block(model, pictures(), one)) for one in (seeds(), seeds(), seeds() + 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(("name", "latent"), CASES)
def test_samples_depend_on_their_seeds_alone(name, latent):
    model = build(name, latent=latent, latent_dim=3)
    many, one = model.sample(seeds()), model.sample(seeds()[2:3])
    assert many.shape == (6, 1, 16, 16) and many.min() >= 0 and many.max() <= 1
    torch.testing.assert_close(many[2:3], one)
    assert not torch.equal(many[0], many[1])
