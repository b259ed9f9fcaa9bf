"""Evidence that what a denoiser removed is noise."""

import numpy as np
import pytest
import torch

from mae.evaluation.residuals import Residual, findings, medians, residual_of


def scene():
    """Smooth image [1 128 128] in [.2, .8], with flat parts."""
    x = torch.linspace(0, 6, 128)
    return (0.5 + 0.3 * (x[:, None].sin() * x.cos()))[None]


def noise(std=0.05, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, std, (1, 128, 128))).float()


def words(noisy, denoised, trained=None):
    return " | ".join(findings([residual_of(noisy, denoised, 255)], trained))


def test_white_noise_that_is_removed_needs_no_words():
    clean = scene()
    assert words(clean + noise(), clean, trained=0.05) == ""
    found = residual_of(clean + noise(), clean, 255)
    assert found.removed_std == pytest.approx(0.05, rel=0.03)
    assert found.noise_std == pytest.approx(0.05, rel=0.25)


def test_what_is_wrong_is_said():
    clean = scene()
    blurred = torch.nn.functional.avg_pool2d(noise(0.15)[None], 3, 1, 1)[0]
    assert "noise of neighbouring pixels is correlated" in words(clean + blurred, clean)
    half = 0.5 + (clean - 0.5) / 2
    assert "correlated with the result" in words(clean + noise(), half)
    assert "removed is correlated from pixel to pixel" in words(clean + noise(0.01), half)
    assert "brightness changes by 0.1" in words(clean + noise(), clean - 0.1)
    assert "train with model.strength near 0.04" in words(clean + noise(), clean, trained=0.01)
    flat = torch.full_like(clean, 0.5)
    assert "no noise was found" in words(flat, flat)


def test_opposite_signs_do_not_cancel():
    clean = scene()
    pair = [residual_of(clean + noise(), clean + change, 255) for change in (0.1, -0.1)]
    assert "brightness changes by 0.1" in " ".join(findings(pair, None))


def test_medians_leave_out_what_is_unknown():
    one = Residual(0.0, 1.0, 0.0, 0.0, None, None)
    other = one._replace(noise_std=3.0, removed_std=2.0)
    assert medians([one, other, one])["noise_std"] is None  # of most images unknown
    assert medians([one, other])["noise_std"] == 3
    assert medians([one, other, one])["removed_std"] == 1
    assert medians([one])["noise_std"] is None
