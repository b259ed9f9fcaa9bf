import numpy as np
import pytest
import torch

from mae.evaluation.image_counts import ImageCounts
from mae.evaluation.mask_classes import IGNORE
from mae.evaluation.segmentation_scores import class_ious, compare, count, quality, resample
from mae.evaluation.segmentation_scores import score_counts as score_resampled


def score_counts(counts, seed):
    """Scores of full tables of counts."""
    return score_resampled(*resample([ImageCounts.of(counts)], seed))


def difference(counts, other, seed):
    """Paired differences of full tables of counts."""
    return compare(*resample([ImageCounts.of(counts), ImageCounts.of(other)], seed))


def test_counts_and_quality_by_hand():
    truth = torch.tensor([[0, 0, 1, 1, IGNORE, 2], [0, 0, 0, 0, 0, IGNORE]])
    predicted = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 3, 3, 3]])
    counts = count(predicted, truth, 5)
    assert counts[0].tolist() == [[1, 2, 2], [2, 3, 2], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert counts[1].tolist() == [[3, 3, 5], [0, 0, 0], [0, 0, 0], [0, 2, 0], [0, 0, 0]]
    first = quality(counts[0])
    assert first.mean_iou == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)  # classes 3, 4: no one's
    assert first.accuracy == pytest.approx(3 / 5)
    both = quality(counts.sum(0))
    assert both.mean_iou == pytest.approx((4 / 8 + 2 / 3 + 0 + 0) / 4)
    assert both.accuracy == pytest.approx(6 / 10)


def test_intervals_contain_the_score_and_shrink_with_images():
    rng = np.random.default_rng(0)

    def counts(images):
        right = rng.binomial(100, 0.7, images)
        rows = [[[r, 100, 100], [r, 100, 100]] for r in right.tolist()]
        return np.array(rows)

    few, many = score_counts(counts(10), 0), score_counts(counts(1000), 0)
    for evaluations in (few, many):
        assert (
            evaluations.accuracy_interval[0]
            <= evaluations.accuracy
            <= evaluations.accuracy_interval[1]
        )
        assert (
            evaluations.mean_iou_interval[0]
            <= evaluations.mean_iou
            <= evaluations.mean_iou_interval[1]
        )
    width = [high - low for low, high in (few.accuracy_interval, many.accuracy_interval)]
    assert 4 < width[0] / width[1] < 25  # about 10


def test_differences_are_paired_by_image():
    """Predictions differ in one pixel of each image, so the interval is narrow."""
    rng = np.random.default_rng(0)
    right = rng.integers(20, 90, 100)
    counts, other = (
        np.array([[[r, 100, 100], [r, 100, 100]] for r in rights.tolist()])
        for rights in (right, right - 2)
    )
    found = difference(counts, other, 0)
    assert found["difference"] == pytest.approx(0.02)
    assert found["interval"] == pytest.approx([0.02, 0.02])
    low, high = found["mean_iou_interval"]
    assert low <= found["mean_iou_difference"] <= high and high - low < 0.005
    evaluations = score_counts(counts, 0)
    assert evaluations.accuracy_interval[1] - evaluations.accuracy_interval[0] > 0.04


def rows(*images):
    """Counts from a list of (right, predicted, true) by class for each image."""
    return np.array(images, np.int64)


RIGHT, WRONG = [[50, 50, 50], [50, 50, 50]], [[0, 50, 50], [0, 50, 50]]
MIXED = [[40, 60, 50], [30, 40, 50]]
RARE = [[50, 60, 60], [0, 0, 0], [3, 4, 9]]
COMMON = [[50, 60, 60], [70, 80, 80], [0, 0, 0]]
MANY = [
    [[900, 990, 910], *([[0, 0, 3 if c % 60 == i else 0] for c in range(120)])] for i in range(60)
]
DEGENERATE = {
    "one image": rows(MIXED),
    "one image, all right": rows(RIGHT),
    "all right": rows(*[RIGHT] * 9),
    "all wrong": rows(*[WRONG] * 9),
    "one class": rows(*[[[80, 100, 80]], [[90, 90, 100]]] * 5),
    "a class in one image": rows(*[COMMON] * 20, RARE),
    "120 classes of IoU 0 in two images each": rows(*MANY),
    "no pixel has a class": rows(*[[[0, 0, 0], [0, 0, 0]]] * 5),
    "one image of ten wrong": rows(*[RIGHT] * 9, WRONG),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_intervals_contain_the_estimate(name):
    counts = DEGENERATE[name]
    found = score_counts(counts, 0)
    for estimate, interval in (
        (found.mean_iou, found.mean_iou_interval),
        (found.accuracy, found.accuracy_interval),
    ):
        assert 0 <= interval.low <= estimate <= interval.high <= 1
        assert interval.high - interval.low > 0.001  # no claim of certainty
    others = [counts, np.roll(counts, 1, axis=0), np.zeros_like(counts)]
    for other in others:
        change = difference(counts, other, 0)
        for key, interval in (
            ("mean_iou_difference", "mean_iou_interval"),
            ("difference", "interval"),
        ):
            low, high = change[interval]
            assert -1 <= low <= change[key] <= high <= 1


def test_an_image_alone_leaves_the_interval_open():
    found = score_counts(rows(MIXED), 0)
    assert found.mean_iou_interval == found.accuracy_interval == (0, 1)
    assert difference(rows(MIXED), rows(WRONG), 0)["interval"] == [-1, 1]


def test_rare_classes_do_not_shift_the_interval():
    """Resamples lack half of the classes of IoU 0; leaving them out doubles the mean IoU."""
    counts = DEGENERATE["120 classes of IoU 0 in two images each"]
    found = score_counts(counts, 0)
    assert found.mean_iou == pytest.approx(900 / 1000 / 121, abs=2e-4)
    low, high = found.mean_iou_interval
    assert low < 1.02 * found.mean_iou and high < 1.6 * found.mean_iou


def world(rng, images):
    """Counts of random images; the third class is in a fifth of them, and hard."""
    counts = np.zeros((images, 3, 3), np.int64)
    size = np.zeros((images, 3), np.int64)
    size[:, 1] = rng.integers(100, 400, images)
    size[:, 2] = rng.integers(10, 120, images) * (rng.random(images) < 0.2)
    size[:, 0] = 1000 - size[:, 1:].sum(axis=1)
    hit = np.stack([rng.beta(a, 2, images) for a in (20, 6, 1.2)], axis=1)
    right = (size * hit).astype(np.int64)
    wrong = size - right
    counts[..., 0], counts[..., 2] = right, size
    counts[..., 1] = right + wrong[:, [1, 0, 0]] * [1, 1, 0]
    counts[:, 0, 1] += wrong[:, 2]
    return counts


def test_intervals_cover_the_truth_in_nearly_95_of_100_experiments(monkeypatch):
    monkeypatch.setattr("mae.evaluation.segmentation_scores.RESAMPLES", 400)
    rng = np.random.default_rng(0)
    truth = quality(world(rng, 50_000).sum(axis=0))
    covered = np.zeros(2)
    for seed in range(150):
        found = score_counts(world(rng, 80), seed)
        for i, interval in enumerate((found.mean_iou_interval, found.accuracy_interval)):
            covered[i] += interval.low <= truth[i] <= interval.high
    assert (covered / 150 > 0.88).all() and (covered / 150 < 1).all()


def test_class_ious_are_unknown_for_absent_classes():
    found = class_ious(np.array([[3, 4, 5], [0, 0, 0], [0, 2, 0]]))
    assert found[0] == pytest.approx(0.5) and np.isnan(found[1]) and found[2] == 0
