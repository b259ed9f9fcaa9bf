import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mae.base.errors import UserError
from mae.evaluation.probe import (
    FIXED,
    draw_samples,
    in_span,
    is_edge,
    probe,
    regularisation_path,
    repeated_probe,
    standardise,
    validation_splits,
)


def blobs(n, classes=3, noise=1.0, seed=0):
    """Points around one centre per class, in dimensions of very different scale."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = 3 * np.random.default_rng(99).standard_normal((classes, 8))
    points = centres[labels] + noise * rng.standard_normal((n, 8))
    return (points * 10.0 ** np.arange(-4, 4)).astype(np.float32), labels


def test_separable_classes_are_learnt_at_any_scale():
    (train, labels), (test, test_labels) = blobs(300), blobs(300, seed=1)
    assert probe(train, labels, test, test_labels, seed=0).accuracy > 0.97


def test_random_labels_are_not_learnt():
    rng = np.random.default_rng(0)
    (train, _), (test, _) = blobs(600), blobs(600, seed=1)
    labels, test_labels = rng.integers(0, 3, 600), rng.integers(0, 3, 600)
    accuracy = probe(train, labels, test, test_labels, seed=0).accuracy
    assert accuracy == pytest.approx(1 / 3, abs=4 * (2 / 9 / 600) ** 0.5)


def test_test_set_does_not_influence_the_choice():
    train, labels = blobs(300, noise=4)
    easy, hard = blobs(100, noise=1, seed=1), blobs(100, noise=9, seed=2)
    chosen = {probe(train, labels, *test, seed=0).strength for test in (easy, hard)}
    assert len(chosen) == 1


def test_budgets_draw_the_same_samples_for_every_feature_and_others_for_every_split():
    _, labels = blobs(300)
    rows = draw_samples(labels, 3, per_class=7)
    assert np.array_equal(rows, draw_samples(labels, 3, per_class=7))
    assert not np.array_equal(rows, draw_samples(labels, 4, per_class=7))
    assert len(set(rows)) == 21
    assert np.bincount(labels[rows]).tolist() == [7, 7, 7]


def test_more_labels_help():
    (train, labels), (test, test_labels) = blobs(600, noise=3), blobs(600, noise=3, seed=1)
    few = repeated_probe(train, labels, test, test_labels, per_class=5)
    many = repeated_probe(train, labels, test, test_labels)
    assert many.mean > few.mean
    assert len(few.scores) == 5 and few.deviation > 0


def test_constant_dimensions_are_harmless():
    train = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    scaled, _ = standardise(train, train)
    assert scaled.tolist() == [[-1, 0], [1, 0]]


def test_per_cent_are_of_every_class_and_one_at_least():
    labels = np.array([0] * 200 + [1] * 30 + [2] * 3)
    for percent, counts in ((1, [2, 1, 1]), (10, [20, 3, 1]), (100, [200, 30, 3])):
        rows = draw_samples(labels, 0, percent=percent)
        assert len(set(rows)) == sum(counts)
        assert np.bincount(labels[rows]).tolist() == counts


def test_too_few_labels_are_named():
    train, labels = blobs(30)
    with pytest.raises(UserError, match="class 0 has 10 samples, not 11"):
        repeated_probe(train, labels, train, labels, per_class=11)


@pytest.mark.parametrize(
    ("counts", "splits", "held_out"),
    [
        ([5000, 5000, 5000], 1, 1500),  # many: a tenth
        ([50, 50, 50], 20, 30),  # a fifth
        ([5, 5, 5], 20, 3),
        ([4, 4, 4], 4, 3),  # folds: a fifth would not hold every class
        ([2, 9, 9], 20, 4),  # the rare class is fitted at least
        ([2, 2], 2, 2),
        ([1, 2, 2], 2, 2),
        ([1, 1, 1], 0, 0),
    ],
)
def test_splits_are_stratified_and_fit_every_class(counts, splits, held_out):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    found = validation_splits(labels, seed=0)
    assert len(found) == splits
    for fitted, tested in found:
        assert sorted([*fitted, *tested]) == list(range(len(labels)))
        assert len(tested) == held_out
        assert set(labels[fitted]) == set(range(len(counts)))
        alone = {c for c, count in enumerate(counts) if count == 1}
        assert not alone & set(labels[tested])
        if len(set(counts) - {1}) == 1:
            assert len(set(labels[tested])) == len(counts) - len(alone)


def test_one_label_per_class_uses_the_fixed_strength():
    (train, labels), (test, test_labels) = blobs(3), blobs(300, seed=1)
    score = probe(train, labels, test, test_labels, seed=0)
    assert score.strength == FIXED
    assert score.accuracy == score.right.mean() > 0.5


def test_edge_of_the_candidates_is_not_a_tie():
    reached = {(0.5, 0.4, 0.3): True, (0.1, 0.2, 0.3): True, (0.3, 0.3, 0.2): False}
    reached |= {(0.1, 0.3, 0.2): False, (0.0, 0.0, 0.0): False}
    assert {given: is_edge(np.array(given)) for given in reached} == reached
    rng = np.random.default_rng(0)  # one weak direction in noise: the strongest penalty is best
    labels = np.arange(100) % 2
    noise = rng.standard_normal((100, 400)).astype(np.float32)
    noise[:, 0] += labels
    assert probe(noise, labels, noise, labels, seed=0).at_edge == is_edge_by_hand(noise, labels)


def is_edge_by_hand(train, labels):
    """Choice of C by scikit-learn, as the probe chooses."""
    strengths = [10.0**power for power in range(-4, 3)]
    scores = np.zeros(7)
    for fitted, held_out in validation_splits(labels, 0):
        scaled, tested = standardise(train[fitted], train[held_out])
        for i, strength in enumerate(strengths):
            model = LogisticRegression(C=strength, max_iter=500).fit(scaled, labels[fitted])
            scores[i] += model.score(tested, labels[held_out])
    return scores[[0, -1]].max() > scores[1:-1].max()


def test_fits_that_were_stopped_are_counted():
    train, labels = blobs(60, noise=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        (stopped,) = regularisation_path(*standardise(train, train)[:1], labels, train, (100.0,), 2)
    assert stopped.iterations == 2
    score = repeated_probe(train, labels, train, labels, splits=1).scores[0]
    assert score.converged and 2 < score.iterations < 500 and score.unfinished == 0


def test_few_labels_are_fitted_in_their_span_with_the_same_predictions(monkeypatch):
    """300 columns of 60 rows: as raw pixels of few images."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    centres = 0.3 * rng.standard_normal((3, 300))
    train, test = (
        (centres[labels] + rng.standard_normal((60, 300))).astype(np.float32) for _ in range(2)
    )
    scaled, held_out = standardise(train, test)
    reduced, projected = in_span(scaled, held_out)
    assert reduced.shape[1] == 59  # the mean is gone
    np.testing.assert_allclose(reduced @ reduced.T, scaled @ scaled.T, atol=2e-3)
    np.testing.assert_allclose(projected @ reduced.T, held_out @ scaled.T, atol=2e-3)
    strengths = (1e-3, 1e-2, 1e-1)
    fast = regularisation_path(scaled, labels, held_out, strengths, 500)
    monkeypatch.setattr("mae.evaluation.probe.MOST_IN_SPAN", 0)
    slow = regularisation_path(scaled, labels, held_out, strengths, 500)
    for ours, theirs in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(ours.predicted, theirs.predicted)


def test_many_labels_are_fitted_as_they_are():
    train = np.zeros((50, 60), np.float32)
    assert all(one is train for one in in_span(train, train))
