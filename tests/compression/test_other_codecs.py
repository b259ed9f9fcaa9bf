"""Codecs to compare with: what they count, and the PCA coder beside scikit-learn."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from mae.compression.comparison import Curve, Point, at_rate, verdict
from mae.compression.other_codecs import PATCH, Jpeg, PcaCodec, pillow_codecs


def test_payloads_of_files_that_hold_nothing_but_a_colour_are_small(make_image):
    for codec in pillow_codecs():
        flat = codec.measure(np.full((64, 48, 3), 90, np.uint8), 50)
        busy = codec.measure(make_image(1, (64, 48)), 50)
        assert 0 < flat.payload < busy.payload < busy.whole
        assert flat.payload <= 60 < flat.whole - flat.payload + 60
        assert np.abs(flat.pixels.astype(int) - 90).max() <= 2
        gray = codec.measure(make_image(1, (20, 24), 1)[..., None], 50)
        assert gray.pixels.shape == (20, 24, 1)
        assert not codec.holds(np.zeros((8, 8, 5), np.uint8))
        assert not codec.holds(np.zeros((8, 8, 1), np.uint16))


def test_jpeg_counts_the_scan(make_image):
    image, file = make_image(3, (32, 32)), io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=50, optimize=True)
    scan = file.getvalue().index(b"\xff\xda")
    found = Jpeg().measure(image, 50)
    assert found.payload == len(file.getvalue()) - scan and found.whole == len(file.getvalue())


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (5, np.uint16)])
def test_the_pca_coder_keeps_what_its_step_allows(channels, dtype):
    generator = np.random.default_rng(0)
    white = np.iinfo(dtype).max
    noise = generator.uniform(0, 0.2, (40, 64, 61, channels))
    smooth = np.linspace(0, 0.8, 64)[:, None, None] + noise
    images = [(one * white).astype(dtype) for one in smooth]
    coder = PcaCodec(images[:30])
    errors, rates = [], []
    for step in (160, 40, 10, 1):
        found = coder.measure(images[35], step)
        error = (found.pixels.astype(float) - images[35]) / white
        assert found.pixels.shape == images[35].shape
        errors.append(np.sqrt((error**2).mean()))
        rates.append(found.payload)
        assert errors[-1] <= step / 255 / math.sqrt(12) + 0.003
    assert errors == sorted(errors, reverse=True) and rates == sorted(rates)


def test_its_components_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    scales = np.linspace(0, 60, PATCH)[:, None, None]
    images = [
        (128 + generator.normal(0, 1, (32, 16, 1)) * np.tile(scales, (4, 1, 1)))
        .clip(0, 255)
        .astype(np.uint8)
        for _ in range(50)
    ]
    coder = PcaCodec(images)
    rows = np.stack(images).reshape(50, 4, PATCH, 2, PATCH).transpose(0, 1, 3, 2, 4)
    reference = PCA(5).fit(rows.reshape(-1, PATCH * PATCH) / 255)
    np.testing.assert_allclose(coder.mean, reference.mean_)
    overlap = np.abs(np.sum(reference.components_ * coder.basis[:5], axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-6)


def point(rate, psnr):
    return Point("", rate, rate, psnr, 0.9)


def test_the_verdict_says_who_wins():
    curve = Curve("JPEG", [point(0.25, 20), point(1.0, 30)])
    assert at_rate(curve, 0.5, "psnr") == pytest.approx(25)
    for rate, psnr, words in (
        (0.5, 26, "wins against JPEG by 1.00 dB"),
        (0.5, 24, "loses to JPEG by 1.00 dB"),
        (0.1, 21, "wins against JPEG, whose smallest files"),
        (0.1, 19, "needs less than JPEG, whose smallest files"),
        (2.0, 25, "loses to JPEG, whose largest files"),
    ):
        (line,) = verdict(Curve("tables", [point(rate, psnr)]), [curve])
        assert line.startswith(words)
