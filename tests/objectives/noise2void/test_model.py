"""Denoiser: results put together from passes, tiles without seams, what pairs teach."""

import numpy as np
import pytest
import torch

from mae.export.programs import trace_module
from mae.objectives.base import total_loss
from mae.objectives.noise2void.export import Denoise, example
from mae.objectives.noise2void.measures import (
    autocorrelation,
    correlation,
    means_of,
    measure,
    sums_of,
)
from mae.objectives.noise2void.tiling import in_tiles
from tests.objectives.autoencoders.small import DONE, build, pictures, seeds

PAIRS = {"method": "noise2noise"}


def trained(channels: int = 1, bits: int = 8, **model):
    """Denoiser with weights as after training: the head of a fresh one is 0."""
    made = build("noise2void", channels, bits, **model)
    torch.nn.init.normal_(made.network.head.weight, std=0.3)
    return made


def tiled_by(run, model, images: torch.Tensor) -> np.ndarray:
    """Images in small tiles by `run`, a function of tensors."""

    def by_numpy(tile: np.ndarray) -> np.ndarray:
        return run(torch.from_numpy(tile)).numpy()

    multiple, margin = model.multiple, model.margin
    return in_tiles(by_numpy, images.numpy(), multiple, margin, 2 * multiple)


@torch.no_grad()
def test_the_result_is_that_of_a_loop_over_every_pixels_own_pass():
    model = trained(2)
    noisy = model.normalize(pictures(1, 2))
    found = model.denoise(noisy)
    weights = torch.tensor([[0.5, 1, 0.5], [1, 0, 1], [0.5, 1, 0.5]])
    padded = torch.nn.functional.pad(noisy, (1, 1, 1, 1))
    inside = torch.nn.functional.pad(torch.ones(16, 16), (1, 1, 1, 1))
    expected = torch.zeros_like(noisy)
    for row in range(4):
        for column in range(4):
            inputs = noisy.clone()
            for y in range(row, 16, 4):
                for x in range(column, 16, 4):
                    window = padded[0, :, y : y + 3, x : x + 3]
                    there = weights * inside[y : y + 3, x : x + 3]
                    inputs[0, :, y, x] = (window * there).sum(dim=(1, 2)) / there.sum()
            made = inputs + model.network(inputs)
            expected[:, :, row::4, column::4] = made[:, :, row::4, column::4]
    torch.testing.assert_close(found, model.unit(expected).clamp(0, 1), rtol=0, atol=1e-6)


def test_a_result_does_not_depend_on_its_own_noisy_pixel():
    model = trained()
    noisy = model.normalize(pictures(1)).requires_grad_()
    for y, x in ((0, 0), (5, 7), (15, 15)):
        result = model.denoise_normalized(noisy)[0, 0, y, x]
        (gradient,) = torch.autograd.grad(result, noisy)
        assert gradient[0, 0, y, x] == 0 and gradient.abs().sum() > 0


@pytest.mark.parametrize("model", [{}, PAIRS, {"stages": 1}], ids=str)
@pytest.mark.parametrize("size", [(41, 70), (64, 64), (30, 9)])
@torch.no_grad()
def test_tiles_have_no_seams_at_any_size(size, model):
    denoiser = trained(**model)
    images = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1)) - 0.5
    whole = denoiser.denoise(images).numpy()

    tiled = tiled_by(denoiser.denoise_normalized, denoiser, images)
    assert whole.shape == tiled.shape == (1, 1, *size)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_large_images_are_denoised_in_tiles(monkeypatch):
    denoiser = trained(stages=1)
    images = torch.rand(1, 1, 50, 60) - 0.5
    whole = denoiser.denoise(images)
    monkeypatch.setattr("mae.objectives.noise2void.model.TILE", 16)
    torch.testing.assert_close(denoiser.denoise(images), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stages", [1, 3])
@torch.no_grad()
def test_a_white_image_stays_white_up_to_its_border(stages):
    model = build("noise2void", stages=stages)
    white = model.normalize(torch.full((2, 1, 30, 30), 255, dtype=torch.uint8))
    program = trace_module(Denoise(model), example(model), model.multiple).module()
    for found in (model.denoise(white).numpy(), tiled_by(program, model, white)):
        np.testing.assert_allclose(found, 1, rtol=0, atol=1e-6)


def test_no_pixel_of_a_side_that_does_not_divide_sees_itself():
    """The pixels that continue the image are hidden with those that they copy."""
    model = trained(stages=3)
    noisy = model.normalize(pictures(1))[..., :14, :11].contiguous()
    for y, x in ((13, 10), (12, 8), (10, 7), (0, 10)):
        changed = noisy.clone()
        changed[0, 0, y, x] += 3
        one, other = model.denoise(noisy), model.denoise(changed)
        assert one[0, 0, y, x] == other[0, 0, y, x] and not torch.equal(one, other)


@pytest.mark.parametrize("settings", [(1, 1), (2, 2), (3, 1)])
def test_no_pixel_sees_further_than_its_reach(settings):
    stages, depth = settings
    model = trained(stages=stages, depth=depth, width=2)
    reach, side = model.network.reach, 4 * model.network.reach // 16 * 16 + 32
    noisy = torch.rand(1, 1, side, side, requires_grad=True)
    centre = side // 2 - 1
    seen = torch.zeros(side, side, dtype=torch.bool)
    for at in (centre, centre + 1, centre + 3):
        (gradient,) = torch.autograd.grad(model.network(noisy)[0, 0, at, at], noisy)
        rows, columns = (gradient[0, 0] != 0).nonzero().unbind(1)
        assert max((rows - at).abs().max(), (columns - at).abs().max()) <= reach
        seen |= gradient[0, 0] != 0
    assert seen.any()


def test_the_loss_is_the_error_of_hidden_pixels_alone():
    model, images = trained(3), pictures(4, 3)
    noise = model.draw(images, seeds(4))
    found = total_loss(model(images, noise, DONE))
    noisy = model.normalize(images)
    made = model.correct(model.spots.hide(noisy, noise))
    hidden = torch.zeros(4, 256, dtype=torch.bool).scatter(1, noise.hidden, True).view(4, 1, 16, 16)
    errors = ((made - noisy) ** 2)[hidden.expand(-1, 3, -1, -1)]
    torch.testing.assert_close(found, errors.mean())
    assert hidden.sum() == 4 * 16


def test_pairs_teach_the_mean_of_their_targets():
    """With one input and many noisy targets the best constant is their mean (Lehtinen 2018)."""
    model = build("noise2void", method="noise2noise", stages=1).train()
    clean = torch.full((16, 1, 16, 16), 0.25)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(80):
        second = clean + 0.8 * torch.randn(clean.shape, generator=generator)
        first = torch.full_like(clean, -0.5)
        batch = torch.cat([first, second], dim=1)
        optimizer.zero_grad()
        total_loss(model(batch, None, DONE)).backward()
        optimizer.step()
    with torch.no_grad():
        made = model.correct(torch.full((1, 1, 16, 16), -0.5))
    assert (made - 0.25).abs().mean() < 0.08


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (5, 16)])
def test_measures_of_pairs_are_those_of_the_second_image(channels, bits):
    model = trained(channels, bits)
    noisy, clean = pictures(3, channels, bits), pictures(3, channels, bits).flip(0)
    found = measure(model, torch.cat([noisy, clean], dim=1), seeds(3))
    result, truth = model.denoise(noisy), clean.float() / model.white
    expected = -10 * (result - truth).square().mean(dim=(1, 2, 3)).log10()
    torch.testing.assert_close(found.psnr, expected)
    single = measure(model, noisy, seeds(3))
    assert single.psnr is None and single.psnr_noisy is None
    torch.testing.assert_close(single.psnr_target, found.psnr_target)


def test_a_single_image_has_no_target_without_blind_spots():
    found = means_of(sums_of(measure(trained(**PAIRS), pictures(3), seeds(3))))
    assert "psnr_target" not in found and "loss" not in found and found["psnr_unchanged"] < 60


def test_correlations_are_those_of_numpy():
    one, other = torch.rand(2, 50), torch.rand(2, 50)
    for row in range(2):
        expected = np.corrcoef(one[row].numpy(), other[row].numpy())[0, 1]
        assert correlation(one, other)[row].item() == pytest.approx(expected, abs=1e-5)
    image = torch.rand(1, 1, 20, 30)
    pixels = image[0, 0].numpy()
    beside = np.corrcoef(pixels[:, 1:].ravel(), pixels[:, :-1].ravel())[0, 1]
    below = np.corrcoef(pixels[1:].ravel(), pixels[:-1].ravel())[0, 1]
    assert autocorrelation(image).item() == pytest.approx((beside + below) / 2, abs=1e-5)
