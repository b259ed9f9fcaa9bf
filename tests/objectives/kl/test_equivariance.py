"""Scaling and turning of maps, one transform per image."""

import pytest
import torch
import torch.nn.functional as F

from mae.objectives.kl.equivariance import draw_transforms, resampling, transform
from tests.objectives.autoencoders.small import build, pictures, seeds


def transforms(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(rows)


def test_scale_1_without_a_turn_changes_nothing():
    maps = torch.randn(2, 3, 8, 8)
    assert torch.equal(transform(maps, transforms((1, 0), (1, 0))), maps)
    eye = torch.eye(8).expand(2, 8, 8)
    torch.testing.assert_close(resampling(torch.ones(2), 8), eye, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_the_matrix_is_that_of_numbers_mirrored_over_and_over(side):
    scale, numbers = 0.25, torch.rand(side, dtype=torch.float64)
    mirrored = torch.cat([numbers, numbers.flip(0)]).repeat(21)
    places = torch.arange(len(mirrored)).double() + 0.5 - 20 * side
    expected = []
    for place in range(side):
        wanted = (place + 0.5 - side / 2) / scale + side / 2
        weights = (1 - scale * (places - wanted).abs()).clamp(min=0)
        expected.append((weights @ mirrored / weights.sum()).item())
    found = resampling(torch.tensor([scale], dtype=torch.float64), side)[0] @ numbers
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_are_quarters_against_the_clock(turns):
    maps = torch.randn(2, 3, 8, 8).double()
    found = transform(maps, transforms((1, turns), (1, 0)))
    torch.testing.assert_close(found[0], torch.rot90(maps[0], turns, (1, 2)), rtol=0, atol=1e-6)
    assert torch.equal(found[1], maps[1])


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_the_middle_of_a_halved_image_is_that_of_an_antialiased_reduction(size):
    maps = torch.rand(1, 2, *size).double()
    found = transform(maps, transforms((0.5, 0)))
    height, width = size
    expected = F.interpolate(maps, scale_factor=0.5, mode="bilinear", antialias=True)
    middle = found[..., height // 4 : -height // 4, width // 4 : -width // 4]
    torch.testing.assert_close(middle[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    mirrored = found[..., height // 4 - 2 : height // 4, :]
    inside = found[..., height // 4 : height // 4 + 2, :].flip(2)
    torch.testing.assert_close(mirrored, inside)  # beyond the reduced image


def test_transforms_depend_on_their_seeds_and_the_share_alone():
    many = torch.arange(4000) * 7919
    found = draw_transforms(many, 0.25, is_square=True)
    chosen = (found[:, 0] < 1) | (found[:, 1] > 0)
    assert 0.22 < chosen.float().mean() < 0.28
    assert found[:, 0].min() >= 0.25 and set(found[:, 1].tolist()) == {0, 1, 2, 3}
    assert torch.equal(draw_transforms(many[7:8], 0.25, True), found[7:8])
    assert set(draw_transforms(many, 0.5, is_square=False)[:, 1].tolist()) == {0, 2}


def test_latents_and_images_are_transformed_alike():
    model = build("kl", eq=0.5, stages=2)
    images = pictures()
    noise = model.draw(images, seeds())
    scale, turns = noise.transforms.unbind(dim=1)
    assert ((scale < 1) | (turns > 0)).any()
    ramp = torch.linspace(0, 1, 16).expand(6, 1, 16, 16)  # grows to the right at both sizes
    small = F.avg_pool2d(ramp, 4)
    large = transform(ramp, noise.transforms)
    torch.testing.assert_close(
        F.avg_pool2d(large, 4), transform(small, noise.transforms), rtol=0, atol=0.13
    )
