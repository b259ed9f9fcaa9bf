import numpy as np
import pytest
import torch

from mae.networks.patches import patchify
from mae.objectives.base import total_loss
from mae.objectives.mae.masking import random_masking
from mae.objectives.mae.reconstruction import (
    Explained,
    explained_variance,
    fill_in,
    hidden_sums,
    interpolate_hidden,
    shares_explained,
)
from tests.objectives.losses import START
from tests.objectives.mae.test_model import small_mae


def gradients(b=8, h=16, w=16):
    """Smooth ramps of random direction, uint8, three channels."""
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    a = torch.rand(b, 3, 2, generator=torch.Generator().manual_seed(0))
    ramps = a[..., 0, None, None] * y + a[..., 1, None, None] * x
    return (255 * ramps / 2).to(torch.uint8)


def test_filling_keeps_known_pixels_and_their_range():
    values = torch.rand(4, 3, 13, 7)
    weight = (torch.rand(4, 1, 13, 7) < 0.25).float()
    filled = fill_in(values * weight, weight)
    known = weight.expand_as(values) > 0
    assert torch.equal(filled[known], values[known])
    for picture, seen, visible in zip(filled, values, known, strict=True):
        assert picture.min() >= seen[visible].min() - 1e-6
        assert picture.max() <= seen[visible].max() + 1e-6


def test_a_flat_picture_is_filled_exactly():
    weight = torch.zeros(1, 1, 16, 16)
    weight[..., 3, 9] = 1
    assert torch.allclose(fill_in(0.7 * weight, weight), torch.full((1, 1, 16, 16), 0.7))


def test_interpolation_does_not_use_hidden_patches():
    model = small_mae()
    images = gradients()
    split = random_masking(torch.arange(8), 16, 0.75)
    pixels = model.normalize(patchify(images, (4, 4)))
    spoiled = pixels.scatter(1, split.ids_masked[:, :, None].expand(-1, -1, 48), 1e6)
    assert torch.equal(
        interpolate_hidden(model, pixels, split.ids_keep),
        interpolate_hidden(model, spoiled, split.ids_keep),
    )


def test_r2_of_the_trivial_predictors_against_a_plain_computation():
    model = small_mae(norm_pix_loss=False)
    images, seeds = gradients(), torch.arange(8)
    found = explained_variance(model, [(images[:3], seeds[:3]), (images[3:], seeds[3:])])
    split = model.draw(images, seeds)
    pixels = model.normalize(patchify(images, (4, 4)))
    hidden = torch.stack([p[ids] for p, ids in zip(pixels, split.ids_masked, strict=True)])
    residual = (hidden - hidden.mean(-1, keepdim=True)).square().sum()
    expected = 1 - residual / (hidden - hidden.mean()).square().sum()
    assert found.patch_mean == pytest.approx(expected.item(), abs=1e-5)
    assert found.images == 8
    assert found.interpolation and found.interpolation > 0.5  # ramps are easily interpolated


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_r2_of_flat_pictures_is_not_defined(norm_pix_loss, level):
    """Divided by the deviation it would be a huge number of rounding errors."""
    model, seeds = small_mae(norm_pix_loss=norm_pix_loss), torch.arange(4)
    flat = torch.full((4, 3, 16, 16), level, dtype=torch.uint8)
    assert explained_variance(model, [(flat, seeds)]) == Explained(None, None, None, 4)
    found = explained_variance(model, [(gradients()[:4] // 64 + 100, seeds)])
    assert None not in found  # of little contrast is not flat


def test_sums_of_batches_give_the_r2_of_all():
    model, images, seeds = small_mae(), gradients(), torch.arange(8)
    parts = [hidden_sums(model, images[a:b], seeds[a:b]) for a, b in ((0, 3), (3, 8))]
    found = explained_variance(model, [(images, seeds)])
    expected = (found.model, found.patch_mean, found.interpolation)
    assert shares_explained(*np.sum(parts, axis=0)) == pytest.approx(expected, abs=1e-6)


def test_r2_of_the_model_agrees_with_its_loss():
    model = small_mae()
    images, seeds = gradients(), torch.arange(8)
    output = model(images, model.draw(images, seeds), START)
    mean, square = output.statistics["target_mean"], output.statistics["target_square"]
    variance = square - mean**2
    found = explained_variance(model, [(images, seeds)])
    assert found.model == pytest.approx(1 - (total_loss(output) / variance).item(), abs=1e-4)
    assert found.patch_mean == pytest.approx(0, abs=1e-6)
