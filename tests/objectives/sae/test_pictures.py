"""Top images of each latent, in constant memory, and the panel."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae.base.errors import UserError
from mae.objectives.frozen import Frozen
from mae.objectives.registry import implementation
from mae.objectives.sae.pictures import TopImages, latent_rows
from mae.pictures.latents import lit
from tests.objectives.autoencoders.small import pictures, seeds
from tests.objectives.sae.small import small_sae


def test_the_images_in_which_a_latent_is_largest_are_found_batch_by_batch():
    latents = torch.rand(30, 6, 9, generator=torch.Generator().manual_seed(0)).sub(0.6).relu()
    latents[:, :, 4] += 1.0  # fires everywhere
    latents[:, :, 7] = 0  # nowhere
    top = TopImages(9, 4, (2, 3))
    for numbers in torch.arange(30).split(7):
        top.add(numbers + 100, latents[numbers])
    largest = latents.amax(dim=1)
    for latent in range(9):
        expected = largest[:, latent].topk(4)
        assert torch.equal(top.values[latent], expected.values)
        if latent != 7:
            assert torch.equal(top.images[latent], expected.indices + 100)
            assert torch.equal(top.maps[latent], latents[expected.indices, :, latent])
    chosen = top.chosen(20)
    assert set(chosen) == set(range(9)) - {4, 7}
    assert top.values[chosen, 0].tolist() == sorted(top.values[chosen, 0].tolist(), reverse=True)
    (row,) = latent_rows(top, [chosen[0]])
    assert row.maps.shape == (len(row.images), 2, 3) and row.latent == chosen[0]
    assert row.share == pytest.approx((latents[:, :, chosen[0]] > 0).double().mean().item())
    assert not latent_rows(top, [7])[0].images


def test_pictures_are_lit_where_the_latent_fires():
    shown = torch.full((1, 1, 4, 4), 0.5)
    maps = torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])
    found = lit(shown, maps)
    assert found.shape == (1, 3, 4, 4)
    assert (found[0, :, :2, 2:].mean() > 0.5) and torch.all(found[0, :, 2:] < 0.2)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (5, 16)])
@torch.no_grad()
def test_the_panel_is_the_same_each_time_and_changes_with_the_weights(channels, bits):
    model, images = small_sae(channels, bits), pictures(4, channels, bits)
    own = implementation("sae")
    panels = [own.panel(model, images, seeds(4), "step 3") for _ in range(2)]
    model.dictionary.threshold.fill_(torch.inf)
    panels.append(own.panel(model, images, seeds(4), "step 3"))
    first, again, dead = (np.asarray(panel) for panel in panels)
    assert np.array_equal(first, again) and first.shape != dead.shape


@torch.no_grad()
def test_patches_have_the_grid_of_the_encoder_also_where_they_are_not_square():
    model = small_sae()
    assert model.grid(16) == (4, 4)
    vit = VisionTransformer(img_size=16, patch_size=(8, 4), embed_dim=12, depth=1, num_heads=2)
    model.frozen = Frozen(nn.ModuleDict({"encoder": vit}))
    assert model.grid(8) == (2, 4)


def test_patches_of_other_encoders_have_the_proportions_of_the_image():
    model = small_sae()
    model.frozen = Frozen(nn.Identity())
    model.img_size = (8, 32)
    assert model.grid(16) == (2, 8)
    with pytest.raises(UserError, match="15 tokens are no grid"):
        model.grid(15)
