"""Pixel counts of images without the classes that they do not have, against full tables."""

import numpy as np
import pytest

from mae.evaluation import image_counts
from mae.evaluation.image_counts import ImageCounts


@pytest.fixture
def table():
    """Counts of images with few of the classes; the third image has none."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 99, (11, 200, 3)) * (rng.random((11, 200, 1)) < 0.02)
    counts[2] = 0
    counts[4, 7] = [0, 5, 0]  # predicted, but not there
    return counts


def test_sums_equal_those_of_the_full_table(table, monkeypatch):
    monkeypatch.setattr(image_counts, "CELLS", 2000)  # three images, or some hundred weights
    counts = ImageCounts.of(table)
    assert counts.images == 11 and len(counts.classes) == table.any(axis=2).sum()
    np.testing.assert_array_equal(counts.total(), table.sum(axis=0))
    np.testing.assert_array_equal(counts.images_with(), (table[..., 2] > 0).sum(axis=0))
    blocks = list(counts.blocks())
    assert len(blocks) == 4
    np.testing.assert_array_equal(np.concatenate(blocks), table)
    weights = np.random.default_rng(1).integers(0, 4, (300, 11)).astype(np.uint8)
    expected = np.einsum("ri,ick->rck", weights.astype(np.float64), table.astype(np.float64))
    np.testing.assert_array_equal(counts.weighted(weights), expected)


def test_parts_are_joined_as_they_were_stored(table):
    parts = [ImageCounts.of(one).columns("linear pixels") for one in np.split(table, [2, 3])]
    joined = ImageCounts.unpack(200, "linear pixels", parts)
    np.testing.assert_array_equal(np.concatenate(list(joined.blocks())), table)
    assert sum(array.nbytes for array in joined[1:]) < table.nbytes / 20
