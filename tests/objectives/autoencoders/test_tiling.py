"""Tiles that fade into each other."""

from itertools import pairwise

import pytest
import torch

from mae.objectives.autoencoders.tiling import OVERLAP, in_faded_tiles, starts
from tests.objectives.autoencoders.small import build


@pytest.mark.parametrize("size", [(3, 5), (8, 8), (8, 9), (20, 31), (17, 8)])
def test_a_pixelwise_function_is_the_same_in_tiles(size):
    images = torch.rand(2, 3, *size)
    shapes = []

    def run(tile):
        shapes.append(tile.shape[2:])
        return 1 - tile

    torch.testing.assert_close(in_faded_tiles(run, images, (8, 8)), 1 - images)
    assert set(shapes) == {(8, 8)}


def test_tiles_cover_a_side_and_overlap():
    for side in range(8, 100):
        first = starts(side, 8)
        assert first[0] == 0 and first[-1] == side - 8
        steps = [b - a for a, b in pairwise(first)]
        assert all(0 < step <= 8 * (1 - OVERLAP) + 0.5 for step in steps)


def test_no_seams_between_tiles_that_differ():
    """Tiles with a brightness of their own fade into each other."""
    number = iter(range(100))
    images = torch.rand(1, 1, 32, 160)
    made = in_faded_tiles(lambda tile: tile * 0 + next(number) % 2, images, (32, 32))
    assert made.std() > 0.3
    assert (made[..., 1:] - made[..., :-1]).abs().max() < 0.25  # a seam would be 1


@torch.no_grad()
@pytest.mark.parametrize("model", [{}, {"backbone": "vit"}, {"latent": "vector"}])
def test_a_denoiser_takes_images_of_any_size(model):
    denoiser = build("dae", **model)
    for size in ((16, 16), (5, 7), (300, 33)):
        images = torch.randint(0, 256, (1, 1, *size), dtype=torch.uint8)
        found = denoiser.denoise(images)
        assert found.shape == images.shape and found.isfinite().all()
