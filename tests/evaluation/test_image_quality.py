"""SSIM against scikit-image, energy of fine detail, bicubic baseline."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from mae.evaluation.image_quality import high_frequency_energy, ssim, through_bicubic


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (3, (24, 17)), (5, (32, 32))])
def test_ssim_equals_that_of_scikit_image(channels, size):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, channels, *size, generator=generator).double()
    noise = torch.randn(truth.shape, generator=generator, dtype=truth.dtype)
    made = (truth + 0.1 * noise).clamp(0, 1)
    expected = [
        structural_similarity(
            one.numpy(),
            other.numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
        for one, other in zip(made, truth, strict=True)
    ]
    np.testing.assert_allclose(ssim(made, truth).numpy(), expected, rtol=0, atol=1e-10)
    assert ssim(truth, truth).tolist() == pytest.approx([1, 1, 1])


def test_energy_above_half_the_nyquist_frequency():
    places = torch.arange(64).double()

    def wave(frequency: float) -> torch.Tensor:
        return (2 * torch.pi * frequency * places).cos().expand(1, 1, 64, 64)

    assert high_frequency_energy(wave(0.125)).item() < 1e-9
    assert high_frequency_energy(wave(0.375)).item() == pytest.approx(64 * 64 / 2)
    assert high_frequency_energy(3 * wave(0.375) + 5).item() == pytest.approx(9 * 64 * 64 / 2)


def test_bicubic_keeps_no_more_numbers_than_given():
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(through_bicubic(images, 3 * 32 * 32), images)
    flat = through_bicubic(images, 5)
    torch.testing.assert_close(flat.std(dim=(2, 3)), torch.zeros(2, 3), rtol=0, atol=1e-5)
    assert flat.shape == images.shape
