import numpy as np
import pytest
import torch

from mae.evaluation.pixel_encoders import patch_pixel_encoder, pixel_features, reduced_size
from mae.similarity.features import PIXEL_SIZE
from tests.evaluation.frozen import CONFIG


def test_pixels_are_means_of_squares():
    picture = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12), np.uint8)
    small = pixel_features(torch.from_numpy(picture))["pixels"]
    np.testing.assert_allclose(small.numpy(), picture.reshape(2, -1) / 255, rtol=1e-6)
    blocks = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16), np.uint8)
    large = np.kron(blocks, np.ones((4, 4), np.uint8))
    found = pixel_features(torch.from_numpy(large))["pixels"].numpy().reshape(16, 16)
    # Antialiasing looks beyond a square's edge: close to the squares' own values, not the same.
    assert np.corrcoef(found.ravel(), blocks.ravel())[0, 1] > 0.9
    flat = torch.full((1, 3, 64, 48), 51, dtype=torch.uint8)
    assert pixel_features(flat)["pixels"].numpy() == pytest.approx(0.2)


def test_pixels_of_patches_of_another_size_are_other_features():
    small, large = (patch_pixel_encoder(CONFIG, (side, side), (32, 32), 1.0) for side in (8, 16))
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert small.encode(images)["tokens"].shape != large.encode(images)["tokens"].shape
    assert small.pixels != large.pixels


def test_the_size_of_reduced_pixels_is_that_of_the_features():
    for size in ((8, 12), (16, 40), PIXEL_SIZE):
        pixels = pixel_features(torch.zeros(1, 1, *size, dtype=torch.uint8))["pixels"]
        assert pixels.shape[1] == np.prod(reduced_size(size))
    assert reduced_size(PIXEL_SIZE) == (16, 16)
