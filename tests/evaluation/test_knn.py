import numpy as np
import pytest

from mae.evaluation import knn
from mae.evaluation.knn import directions, knn_accuracy, knn_classes


def clouds(n, classes=5, noise=2.0, seed=0):
    """Points around one centre per class, overlapping."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = 2 * np.random.default_rng(99).standard_normal((classes, 8))
    points = centres[labels] + noise * rng.standard_normal((n, 8))
    return points.astype(np.float32), labels.astype(np.int64)


def plain_accuracy(train, labels, test, test_labels, k, temperature):
    """DINO's rule, one image and one neighbour at a time."""
    right = 0
    for vector, label in zip(test, test_labels, strict=True):
        similar = [
            float(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other))
            for other in train
        ]
        votes = dict.fromkeys(np.unique(labels).tolist(), 0.0)
        for i in sorted(range(len(train)), key=lambda i: -similar[i])[:k]:
            votes[int(labels[i])] += np.exp(similar[i] / temperature)
        right += max(votes, key=lambda c: votes[c]) == label
    return right / len(test)


@pytest.mark.parametrize("k", [1, 7, 20])
def test_equals_a_plain_loop_for_any_batch_size(k, monkeypatch):
    (train, labels), (test, test_labels) = clouds(150), clouds(90, seed=1)
    expected = plain_accuracy(train, labels, test, test_labels, k, 0.07)
    assert 0.4 < expected < 0.98  # hard enough to distinguish rules
    assert knn_accuracy(train, labels, test, test_labels, k=k) == expected
    monkeypatch.setattr(knn, "CELLS", 150 * 4)  # four images at a time, the last two alone
    assert knn_accuracy(train, labels, test, test_labels, k=k) == expected


def test_temperature_controls_the_weight_of_near_neighbours():
    train = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8]], np.float32)
    labels, test = np.array([3, 8, 8]), np.array([[1, 0]], np.float32)
    assert knn_accuracy(train, labels, test, np.array([3]), k=3, temperature=0.07) == 1
    assert knn_accuracy(train, labels, test, np.array([8]), k=3, temperature=10.0) == 1


def test_fewer_samples_than_k_all_vote():
    (train, labels), (test, test_labels) = clouds(6), clouds(40, seed=1)
    few = knn_accuracy(train, labels, test, test_labels, k=20)
    assert few == plain_accuracy(train, labels, test, test_labels, 6, 0.07)


def test_one_class_is_always_right():
    train, _ = clouds(30)
    assert knn_accuracy(train, np.full(30, 4), train, np.full(30, 4)) == 1
    assert knn_accuracy(train, np.full(30, 4), train, np.full(30, 5)) == 0


def test_ties_go_to_first_neighbours_and_smallest_class():
    same = np.ones((6, 3), np.float32)
    labels = np.array([2, 1, 1, 2, 2, 2])
    one = same[:1]
    assert knn_accuracy(same, labels, one, np.array([1]), k=3) == 1
    assert knn_accuracy(same, labels, one, np.array([1]), k=4) == 1
    assert knn_accuracy(same, labels, one, np.array([2]), k=5) == 1


def test_length_is_ignored_and_zero_vectors_are_allowed():
    (train, labels), (test, test_labels) = clouds(60), clouds(40, seed=1)
    lengths = np.random.default_rng(0).uniform(0.1, 9, (60, 1)).astype(np.float32)
    before = knn_accuracy(train, labels, test, test_labels)
    assert knn_accuracy(train * lengths, labels, test * 5, test_labels) == before
    assert directions(np.zeros((2, 3), np.float32)).tolist() == [[0] * 3] * 2
    assert np.isfinite(knn_accuracy(train * 0, labels, test, test_labels))


def test_classes_equal_a_plain_loop():
    (train, labels), (test, _) = clouds(150), clouds(90, seed=1)
    found = knn_classes(train, labels * 100, test)
    unit, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (train, test))
    similar = other @ unit.T
    for row, guess in zip(similar, found, strict=True):
        nearest = np.argsort(-row)[:20]
        votes = np.bincount(labels[nearest], np.exp(row[nearest] / 0.07), minlength=5)
        assert guess == 100 * votes.argmax()


def test_a_very_small_temperature_follows_the_nearest():
    (train, labels), (test, _) = clouds(50), clouds(30, seed=1)
    nearest = labels[(directions(test) @ directions(train).T).argmax(1)]
    found = knn_classes(train, labels, test, k=5, temperature=1e-4)  # exp(1 / T) overflows
    assert found.tolist() == nearest.tolist()
