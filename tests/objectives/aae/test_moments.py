"""Moments of latents against NumPy and SciPy."""

import numpy as np
import pytest
from scipy.stats import kstest

from mae.objectives.aae.moments import BINS, moments, sums_of


@pytest.mark.parametrize("number", [1, 5])
def test_they_equal_numpy_and_scipy(number):
    generator = np.random.default_rng(0)
    latents = generator.normal(0.2, 0.8, (300, number)) @ generator.normal(size=(number, number))
    totals = sums_of(latents[:70]) + sums_of(latents[70:])
    found = moments(totals, len(latents), number)
    np.testing.assert_allclose(found.mean, latents.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.std, latents.std(axis=0), rtol=1e-12)
    exact = np.array([kstest(one, "norm").statistic for one in latents.T])
    assert (found.ks <= exact + 1e-12).all() and (found.ks >= exact - 1 / BINS).all()
    others = np.corrcoef(latents.T).reshape(number, number)[~np.eye(number, dtype=bool)]
    assert found.correlation == pytest.approx(np.abs(others).max(initial=0.0), abs=1e-12)


def test_latents_that_are_all_the_same_are_no_division_by_zero():
    found = moments(sums_of(np.full((9, 2), 40.0)), 9, 2)
    assert (
        found.std.max() < 1e-5
        and found.ks == pytest.approx(1 - 1 / BINS)
        and found.correlation >= 0
    )
