"""AUPRO, pixel AUROC and defect sizes, against a slow implementation of their definitions."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve

from mae.anomaly.localisation import Localisation, count_pixels, localisation_row, merged


@pytest.fixture(scope="module")
def images():
    """Score maps and masks of 30 images: 18 with one to three defects of different sizes."""
    chance = np.random.default_rng(0)
    found = []
    for number in range(30):
        shape = (40, 40 + 8 * (number % 3))
        scores = ndimage.gaussian_filter(chance.normal(1, 0.6, shape), 1.5)
        mask = np.zeros(shape, bool)
        for _ in range(number % 4 if number < 24 else 0):
            side = int(chance.integers(2, 9))
            top, left = chance.integers(0, 40 - side, 2)
            mask[top : top + side, left : left + side] = True
        scores = scores + mask * chance.normal(0.25, 0.2)
        found.append((np.abs(scores).astype(np.float32), mask))
    return found


def counted(images):
    return merged([count_pixels(n, scores, mask) for n, (scores, mask) in enumerate(images)])


def slow_aupro(images, limit=0.3):
    """Curve of Bergmann et al.: thresholds one by one, mean overlap of regions, trapezoids."""
    normal = np.concatenate([scores[~mask] for scores, mask in images])
    regions = []
    for scores, mask in images:
        numbers, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [scores[numbers == region + 1] for region in range(count)]
    rates, overlaps = [], []
    for region in regions:
        labels = np.r_[np.zeros(len(normal)), np.ones(len(region))]
        fpr, tpr, _ = roc_curve(labels, np.r_[normal, region], drop_intermediate=False)
        rates.append(fpr)
        overlaps.append(tpr)
    grid = np.unique(np.concatenate([*rates, [limit]]))
    grid = grid[grid <= limit]
    mean = np.mean([np.interp(grid, *pair) for pair in zip(rates, overlaps, strict=True)], axis=0)
    return np.trapezoid(mean, grid) / limit, len(regions)


def test_aupro_equals_a_slow_implementation_and_pixel_auroc_scikit_learn(images):
    row = localisation_row(counted(images), {n: True for n in range(30)}, 0, by_size=True)
    expected, regions = slow_aupro(images)
    assert row["regions"] == regions > 20
    assert row["aupro"] == pytest.approx(expected, abs=2e-3)
    low, high = row["aupro_interval"]
    assert low < row["aupro"] < high and high - low > 0.02
    pixels = np.concatenate([scores.ravel() for scores, _ in images])
    truth = np.concatenate([mask.ravel() for _, mask in images])
    assert row["pixel_auroc"] == pytest.approx(roc_auc_score(truth, pixels), abs=1e-3)
    assert row["pixel_auroc_interval"][0] < row["pixel_auroc"] < row["pixel_auroc_interval"][1]


def test_ties_are_straight_lines():
    """Scores of few different values: whole groups of pixels pass a threshold together."""
    chance = np.random.default_rng(1)
    images = []
    for _ in range(6):
        mask = np.zeros((20, 20), bool)
        mask[3:8, 4:9] = mask[12:15, 2:18] = True
        scores = chance.integers(0, 4, (20, 20)) + mask * chance.integers(0, 2, (20, 20))
        images.append((scores.astype(np.float32), mask))
    expected, _ = slow_aupro(images)
    assert Localisation(counted(images)).aupro().value == pytest.approx(expected, abs=2e-3)


def test_perfect_and_useless_maps():
    mask = np.zeros((30, 30), bool)
    mask[5:9, 5:9] = True
    perfect = Localisation(count_pixels(0, mask.astype(np.float32), mask))
    assert perfect.aupro().value == pytest.approx(1)
    assert perfect.pixel_auroc().value == pytest.approx(1)
    constant = Localisation(count_pixels(0, np.ones((30, 30), np.float32), mask))
    assert constant.aupro().value == pytest.approx(0.15)  # the diagonal up to .3
    assert constant.pixel_auroc().value == pytest.approx(0.5)


def test_parts_give_the_counts_of_the_whole(images):
    whole = counted(images)
    parts = counted(images[:11])
    rest = [count_pixels(n, *images[n]) for n in range(11, 30)]
    again = merged([parts, merged(rest)])
    for name, table in whole.items():
        np.testing.assert_array_equal(table, again[name], err_msg=name)


def test_detection_and_aupro_by_size(images):
    is_found = {n: n % 2 == 0 for n in range(30)}
    sizes = localisation_row(counted(images), is_found, 0, by_size=True)["by_size"]
    assert list(sizes) == ["small", "medium", "large"]
    with_defects = [n for n, (_, mask) in enumerate(images) if mask.any()]
    assert sum(row["images"] for row in sizes.values()) == len(with_defects)
    assert sum(row["detected"] for row in sizes.values()) == sum(is_found[n] for n in with_defects)
    areas = [row["area"] for row in sizes.values()]
    assert areas[0][1] < areas[1][0] and areas[1][1] < areas[2][0]
    share = [row["regions"] for row in sizes.values()]
    _, regions = slow_aupro(images)
    mean = np.average([row["aupro"] for row in sizes.values()], weights=share)
    whole = Localisation(counted(images)).aupro().value
    assert sum(share) == regions and mean == pytest.approx(whole)


def test_regions_of_images_that_are_left_out_do_not_count(images):
    kept = np.arange(10, 30)
    found = Localisation(counted(images), kept)
    assert set(found.samples.tolist()) <= set(kept.tolist())
    alone = [count_pixels(n, *images[n]) for n in range(30)]
    regions = sum(len(part["region"]) for part in alone[10:])
    assert len(found.areas) == regions
    own = np.concatenate([part["pixel"][:, 2] for part in alone[10:]]).sum()
    assert found.pixels.sum() == own
