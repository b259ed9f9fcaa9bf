"""Probe of an edit: the images that it is fitted to."""

import numpy as np
import pytest

from mae.base.errors import UserError
from mae.generation.attribute_probe import MOST, OWN, fit_probe, known_rows, probe_rows
from mae.generation.attributes import Attribute


def test_few_images_are_all_taken_but_those_without_a_class():
    labels = np.array([1, -1, 0, 1, -1, 0])
    assert probe_rows(labels, Attribute(1, None)).tolist() == [0, 2, 3, 5]


def test_rare_classes_are_not_left_out():
    labels = np.full(200_000, 7)
    labels[np.arange(15) * 13_000 + 11] = 3
    labels[6::40_000] = 4
    labels[1::4] = -1
    rows = probe_rows(labels, Attribute(3, 7))
    assert len(rows) == MOST and (np.diff(rows) > 0).all()
    assert 0 < (labels == 3).sum() <= 15
    for rare in (3, 4):
        assert (labels[rows] == rare).sum() == (labels == rare).sum()
    assert set(labels[rows]) == {3, 4, 7}
    assert np.array_equal(rows, probe_rows(labels, Attribute(3, 7)))


def test_of_more_classes_than_images_the_own_ones_are_there():
    labels = np.arange(24_000) // 2
    labels[-300:-150], labels[-150:] = 20_000, 20_001
    chosen = labels[probe_rows(labels, Attribute(20_001, 20_000))]
    assert len(chosen) == MOST
    assert (chosen == 20_001).sum() >= OWN and (chosen == 20_000).sum() >= OWN


def test_a_probe_knows_a_class_of_few_images_and_reads_no_others(monkeypatch):
    monkeypatch.setattr("mae.generation.attribute_probe.MOST", 40)
    monkeypatch.setattr("mae.generation.attribute_probe.OWN", 5)
    labels = np.repeat([0, 1, 2], [400, 400, 3])
    vectors = np.random.default_rng(0).normal(size=(803, 2)).astype(np.float16)
    vectors[800:] += 8
    probe = fit_probe(vectors, labels, Attribute(2, None))
    assert probe.classes.tolist() == [0, 1, 2] and len(probe.train) == 40
    assert (probe.probabilities(vectors[800:])[:, 2] > 0.5).all()


def test_classes_that_the_probe_does_not_know_are_refused():
    vectors = np.random.default_rng(0).normal(size=(20, 2))
    probe = fit_probe(vectors, np.arange(20) % 2, Attribute(1, None))
    assert known_rows(probe, np.array([5, 1, -1])).tolist() == [False, True, False]
    with pytest.raises(UserError, match="--test: no image is of a class of --direction"):
        known_rows(probe, np.array([5, -1]))
