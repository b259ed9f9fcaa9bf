import numpy as np
import pytest
import torch

from mae.objectives.vae.pictures import LATENTS, VALUES, sample_block, traversals
from tests.objectives.autoencoders.small import build, pictures, seeds


@pytest.mark.parametrize("latent", ["vector", "map"])
@torch.no_grad()
def test_a_traversal_changes_one_latent_of_the_first_image(latent):
    model = build("vae", latent=latent, latent_dim=7)
    images = pictures()
    found = traversals(model, images)
    assert len(found) == LATENTS
    assert [one.nats for one in found] == sorted((one.nats for one in found), reverse=True)
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
    assert traversals(model, pictures())[0].latent == 2
    assert len(traversals(model, pictures())) == 4  # no more than there are


def test_samples_are_the_same_every_time():
    model = build("vae")
    first, again, other = (
        np.asarray(sample_block(model, pictures(), one)) for one in (seeds(), seeds(), seeds() + 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
