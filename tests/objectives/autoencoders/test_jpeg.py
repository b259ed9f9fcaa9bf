"""JPEG as a baseline of codes."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from mae.objectives.autoencoders.jpeg import SCAN, encoded, jpeg_psnr

NAMES = ("vqvae", "dae")


def smooth(channels: int) -> torch.Tensor:
    coarse = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    made = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")[0]
    return (made * 255).round() / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_best_quality_that_the_bits_allow(channels):
    image = smooth(channels)
    pixels = (image * 255).byte().permute(1, 2, 0).numpy()
    pixels = pixels[:, :, 0] if channels == 1 else pixels
    data = encoded(pixels, 60)
    bits = 8 * (len(data) - data.index(SCAN))
    error = np.square(np.array(Image.open(io.BytesIO(data))) / 255 - pixels / 255).mean()
    found = jpeg_psnr(image, bits)
    assert found >= -10 * np.log10(error) - 1e-4
    assert jpeg_psnr(image, 1e9) >= found
    assert jpeg_psnr(image, bits / 3) < found - 1


def test_without_bits_for_a_file_it_is_the_mean_colour():
    image = smooth(3)
    error = (image - image.mean(dim=(1, 2), keepdim=True)).square().mean()
    assert jpeg_psnr(image, 0) == pytest.approx(-10 * error.log10().item(), abs=1e-4)


def test_a_run_measures_it_beside_its_codes_and_a_denoiser_its_input(finished):
    rows = {name: json.loads(last_line(finished(name) / "health.jsonl")) for name in NAMES}
    assert 5 < rows["vqvae"]["psnr_jpeg"] < 40 and "psnr_noisy" not in rows["vqvae"]
    assert 5 < rows["dae"]["psnr_noisy"] < 40 and "psnr_jpeg" not in rows["dae"]
    assert rows["dae"]["psnr_pca"] > rows["dae"]["psnr_mean_image"]


def last_line(path):
    return path.read_text().splitlines()[-1]
