"""Autocorrelation of noise: white noise passes, blurred or recompressed noise is found."""

import io

import numpy as np
import pytest
from PIL import Image

from mae.data.noise import (
    SIDE,
    correlations,
    cosine_basis,
    noise_of,
)
from mae.objectives.noise2void.declaration import DECLARATION
from tests.objectives.autoencoders.recipes import train
from tests.objectives.autoencoders.small import small_config


def rows_of(pixels: np.ndarray) -> np.ndarray:
    """Noise of an image that has some."""
    found = noise_of(pixels.astype(np.float64))
    assert found is not None
    return found


def worst(pixels: np.ndarray) -> float:
    """Largest correlation in any plane."""
    return float(np.abs(rows_of(pixels)[:, 1:]).max())


def scene(number: int, size: int = 128) -> np.ndarray:
    """Edges, gradients and texture, [3 h w] in [0, 255]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.stack([90 + 60 * np.sin(5 * x + c + number) * np.cos(3 * y) for c in range(3)])
    image[:, size // 4 : size // 2, size // 3 : size // 2] += 50
    image[:, :, -(size // 5) :] += 25 * rng.random((1, size, size // 5))
    return image


def blurred(noise: np.ndarray, sigma: float) -> np.ndarray:
    """Noise blurred by a Gaussian, of the same standard deviation."""
    steps = np.arange(-6, 7)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    for axis in (1, 2):
        noise = np.apply_along_axis(np.convolve, axis, noise, kernel, mode="same")
    return noise / noise.std()


def stored(pixels: np.ndarray) -> np.ndarray:
    return pixels.round().clip(0, 255)


@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_white_noise_on_an_image_passes(sigma):
    noise = np.random.default_rng(1).normal(0, sigma, (3, 128, 128))
    found = rows_of(stored(scene(0) + noise))
    assert np.abs(found[:, 1:]).max() < 0.1
    assert found[0, 0] == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("sigma", [0.7, 1, 2])
def test_blurred_noise_is_found(sigma):
    noise = blurred(np.random.default_rng(1).normal(0, 1, (3, 128, 128)), sigma)
    assert worst(stored(scene(0) + 25 * noise)) > 0.25


@pytest.mark.parametrize("quality", [50, 75])
def test_recompressed_noise_is_found(quality):
    noise = np.random.default_rng(1).normal(0, 25, (3, 128, 128))
    pixels = np.moveaxis(stored(scene(0) + noise), 0, -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    assert worst(np.moveaxis(np.array(Image.open(file)), -1, 0)) > 0.2


def test_rows_alone_are_found():
    noise = np.random.default_rng(1).normal(0, 20, (1, 128, 129))
    rows = (noise[:, :, 1:] + noise[:, :, :-1]) / 2**0.5
    found = rows_of(stored(128 + rows))
    assert 0.25 < found[0, 2] < 0.55 and abs(found[0, 1]) < 0.1


def test_a_clean_smooth_image_has_no_noise():
    y, x = np.mgrid[0:128, 0:128] / 128
    smooth = np.stack([127 + 90 * np.sin(2 * x + c) * np.cos(2 * y) for c in range(3)])
    assert noise_of(smooth * 257) is None and noise_of(np.full((1, 64, 64), 7.0)) is None


def test_an_image_smaller_than_a_block_is_not_measured():
    assert noise_of(np.random.default_rng(0).normal(0, 9, (3, SIDE - 1, 64))) is None


@pytest.mark.parametrize("share", [0.0, 0.4, -0.3])
def test_correlations_follow_from_powers(share):
    """Of a process with known covariance; up to a tenth is lost with the covariances of powers."""
    gap = np.abs(np.subtract.outer(np.arange(SIDE), np.arange(SIDE)))
    covariance = np.where(gap == 0, 1.0, np.where(gap == 1, share, 0.0))
    basis = cosine_basis()
    assert np.allclose(basis @ basis.T, np.eye(SIDE))
    along = np.diag(basis @ covariance @ basis.T)
    below, beside = correlations(np.outer(np.ones(SIDE), along))
    assert below == pytest.approx(0, abs=1e-12)
    assert beside == pytest.approx(share, rel=0.1, abs=1e-12)


def test_sharpened_noise_is_refused_in_words_that_hold_for_it(tmp_path, make_tar, capsys):
    noise = np.random.default_rng(1).normal(0, 15, (128, 129, 3))
    file = io.BytesIO()
    Image.fromarray(stored(128 + noise[:, 1:] - noise[:, :-1]).astype(np.uint8)).save(file, "PNG")
    shard = str(make_tar(tmp_path / "s.tar", [("k.png", file.getvalue())]))
    train("noise2void", shard, tmp_path / "run", "model.allow_correlated=false", code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "the noise is correlated: -0." in line and "beyond ±0.1" in line


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ({"radius": 3}, ["model.radius"]),
        ({"radius": 3, "replacement": "neighbour"}, []),
        ({"method": "noise2noise"}, []),
        ({"method": "noise2noise", "grid": 8, "radius": 3}, ["model.grid", "model.radius"]),
    ],
    ids=str,
)
def test_settings_without_effect_are_named(model, keys):
    assert [key for key, _ in DECLARATION.validate(small_config("noise2void", **model))] == keys


@pytest.mark.fault
def test_white_noise_on_photographs_passes(shared_data):
    for number, path in enumerate(sorted((shared_data / "kodak").glob("*.png"))[:6]):
        pixels = np.moveaxis(np.array(Image.open(path)), -1, 0)[:, 100:356, 100:356]
        noise = np.random.default_rng(number).normal(0, 25, pixels.shape)
        assert worst(stored(pixels + noise)) < 0.1
        grain = blurred(noise, 1)
        assert worst(stored(pixels + 25 * grain)) > 0.3
