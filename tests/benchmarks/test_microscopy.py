"""Synthetic fluorescence images, and the transform that makes their noise even."""

import io

import numpy as np
import pytest
import tifffile

from benchmarks.denoise_microscopy import METADATA, require_metadata
from benchmarks.microscopy import (
    FILTERS,
    GAIN,
    OFFSET,
    READOUT,
    SCENES,
    noise_std,
    picture,
    stabilised,
    tiff,
    unstabilised,
)


@pytest.mark.parametrize("kind", SCENES)
def test_scenes_follow_from_their_seed_and_have_the_noise_of_the_camera(kind):
    one, again, other = picture(kind, 1, 96), picture(kind, 1, 96), picture(kind, 2, 96)
    assert np.array_equal(one.noisy, again.noisy) and not np.array_equal(one.noisy, other.noisy)
    assert one.noisy.dtype == np.uint16 and one.clean.min() > OFFSET
    noise = one.noisy - one.clean
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(noise_std(one.clean), rel=0.05)
    values = stabilised(one.noisy.astype(float)) - stabilised(one.clean)
    assert values.std() == pytest.approx(1, rel=0.12)


def test_the_inverse_of_the_transform_has_no_bias():
    generator = np.random.default_rng(0)
    for electrons in (8.0, 20.0, 80.0):
        levels = generator.poisson(electrons, 200_000) + generator.normal(0, READOUT, 200_000)
        mean = stabilised(GAIN * levels + OFFSET).mean()
        found = (unstabilised(np.array([mean])) - OFFSET) / GAIN
        assert found[0] == pytest.approx(electrons, rel=0.02)


def test_filters_come_nearer_to_the_clean_image():
    one = picture("membranes", 3, 64)
    before = np.square(one.noisy - one.clean).mean()
    for name, denoiser in FILTERS.items():
        if name != "BM3D":
            assert np.square(denoiser(one.noisy, denoiser.settings[1]) - one.clean).mean() < before


def test_files_hold_pixels_and_metadata_and_lost_ones_are_found(tmp_path):
    noisy = picture("spots", 1, 64).noisy
    (tmp_path / "a.tif").write_bytes(tiff(noisy))
    with tifffile.TiffFile(io.BytesIO(tiff(noisy))) as file:
        assert np.array_equal(file.asarray(), noisy)
        assert all(key in file.pages.first.description for key in METADATA)
    require_metadata(tmp_path / "a.tif", tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", noisy)
    with pytest.raises((AssertionError, KeyError)):
        require_metadata(tmp_path / "b.tif", tmp_path / "a.tif")
