"""Corruptions: strength, and noise as a function of the seed."""

import pytest
import torch

from mae.objectives.autoencoders.corruption import Corruption

SEEDS = torch.arange(1, 9) * 104729


@pytest.mark.parametrize("name", ["gaussian", "masking", "salt_and_pepper"])
def test_noise_is_a_function_of_each_samples_seed(name):
    corruption = Corruption(name, 0.2)
    many = corruption.draw(SEEDS, (3, 16, 16))
    assert torch.equal(many[4:5], corruption.draw(SEEDS[4:5], (3, 16, 16)))
    assert not torch.equal(many[0], many[1])


def test_gaussian_noise_has_the_standard_deviation():
    corruption = Corruption("gaussian", 0.1)
    grey = torch.full((8, 3, 64, 64), 0.5)
    noise = corruption.apply(grey, corruption.draw(SEEDS, (3, 64, 64))) - grey
    assert noise.mean().abs() < 1e-3 and noise.std() == pytest.approx(0.1, rel=0.01)


def test_masking_zeroes_a_share_of_the_pixels_in_all_channels():
    corruption = Corruption("masking", 0.3)
    white = torch.ones(8, 3, 64, 64)
    made = corruption.apply(white, corruption.draw(SEEDS, (3, 64, 64)))
    assert (made == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(made[:, 0], made[:, 1])


def test_salt_and_pepper_are_half_each():
    corruption = Corruption("salt_and_pepper", 0.4)
    grey = torch.full((8, 1, 64, 64), 0.5)
    made = corruption.apply(grey, corruption.draw(SEEDS, (1, 64, 64)))
    assert (made == 1).float().mean() == pytest.approx(0.2, abs=0.01)
    assert (made == 0).float().mean() == pytest.approx(0.2, abs=0.01)
