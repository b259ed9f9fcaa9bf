import pytest
import torch

from mae.objectives.sparse.pictures import PARTS, active_parts, parts_block
from tests.objectives.autoencoders.small import build, pictures


@pytest.mark.parametrize("settings", [{}, {"latent": "map"}, {"sparsity": "l1"}])
@torch.no_grad()
def test_parts_are_single_latents_decoded_alone(settings):
    model = build("sparse", latent_dim=16, k=4, **settings)
    images = pictures(3)
    parts = active_parts(model, images)
    latents = model.latents(images)
    size = latents.abs().flatten(2).sum(2) if latents.ndim > 2 else latents.abs()
    assert parts.effects.shape == (3, PARTS, 1, 16, 16)
    nothing = model.decode(torch.zeros_like(latents))
    for image in range(3):
        shown = size[image, parts.latents[image]]
        assert torch.equal(shown, size[image].sort(descending=True).values[:PARTS])
        alone = torch.zeros_like(latents)
        first = parts.latents[image, 0]
        alone[image, first] = latents[image, first]
        expected = (model.decode(alone) - nothing)[image]
        torch.testing.assert_close(parts.effects[image, 0], expected)


@torch.no_grad()
def test_a_latent_that_is_not_active_is_grey():
    model = build("sparse", latent_dim=16, k=2)
    assert active_parts(model, pictures(1)).effects[0, 2:].abs().max() == 0
    assert parts_block(model, pictures(1)).width > 128 * (PARTS + 1)
