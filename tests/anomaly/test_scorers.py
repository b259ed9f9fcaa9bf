"""Scorers of patches."""

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mae.anomaly import scorers
from mae.anomaly.scorers import RIDGE, SCORERS
from mae.base.errors import UserError

STATISTICAL = ("gaussian", "pca", "knn")
"""scorers that need no training"""


@pytest.fixture
def maps():
    return torch.randn(40, 6, 3, 4, generator=torch.Generator().manual_seed(0)).cumsum(1)


def fitted(name, maps, parts=1):
    scorer, merged = SCORERS[name], None
    for numbers in np.array_split(np.arange(len(maps)), parts):
        found = scorer.collect(maps[numbers[0] : numbers[-1] + 1], numbers.tolist(), 0)
        merged = found if merged is None else scorer.merge(merged, found)
    assert merged is not None
    return scorer, scorer.finish(merged)


def rows(maps):
    return maps.movedim(1, -1).flatten(0, 2).numpy()


@pytest.mark.parametrize("name", STATISTICAL)
def test_parts_give_the_numbers_of_the_whole(name, maps):
    scorer, whole = fitted(name, maps)
    _, parts = fitted(name, maps, 5)
    new = maps[:3] + 1
    expected = scorer.score(whole, new)
    assert expected.shape == (3, 3, 4)
    torch.testing.assert_close(scorer.score(parts, new), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", STATISTICAL)
def test_anomalies_score_higher(name, maps):
    scorer, parameters = fitted(name, maps)
    odd = maps[:5].clone()
    odd[:, :, 1, 2] += 20 * torch.tensor([1.0, -1, 1, -1, 1, -1])
    before, after = (scorer.score(parameters, one) for one in (maps[:5], odd))
    assert (after[:, 1, 2] > before.amax(dim=(1, 2))).all()
    same = torch.ones(3, 4, dtype=torch.bool)
    same[1, 2] = False
    torch.testing.assert_close(after[:, same], before[:, same])


def test_gaussian_equals_the_mahalanobis_distance_of_scikit_learn(maps, monkeypatch):
    monkeypatch.setattr(scorers, "RIDGE", 0.0)
    scorer, parameters = fitted("gaussian", maps)
    found = scorer.score(parameters, maps[:7])
    for row, column in ((0, 0), (2, 3)):
        of_position = maps[:, :, row, column].numpy()
        known = EmpiricalCovariance().fit(of_position)
        squared = known.mahalanobis(of_position[:7]) * (len(maps) - 1) / len(maps)
        np.testing.assert_allclose(found[:, row, column], np.sqrt(squared), rtol=1e-3)


def test_pca_equals_that_of_scikit_learn(maps):
    scorer, parameters = fitted("pca", maps)
    kept = len(parameters["basis"])
    assert 0 < kept < 6
    known = PCA(kept).fit(rows(maps))
    left = rows(maps) - known.inverse_transform(known.transform(rows(maps)))
    found = scorer.score(parameters, maps).flatten()
    np.testing.assert_allclose(found, np.linalg.norm(left, axis=1), rtol=1e-3, atol=1e-3)


def test_knn_equals_that_of_scikit_learn(maps, monkeypatch):
    monkeypatch.setattr(scorers, "CELLS", 1000)
    scorer, parameters = fitted("knn", maps)
    known = NearestNeighbors(n_neighbors=1).fit(rows(maps))
    new = maps[:6] + 0.3
    distance, _ = known.kneighbors(rows(new))
    found = scorer.score(parameters, new).flatten()
    np.testing.assert_allclose(found, distance[:, 0], rtol=1e-3, atol=1e-3)


def test_knn_keeps_so_many_patches_whatever_the_parts(maps, monkeypatch):
    monkeypatch.setattr(scorers, "CORESET", 50)
    _, whole = fitted("knn", maps)
    _, parts = fitted("knn", maps, 7)
    assert whole["patches"].shape == (50, 6)
    assert torch.equal(whole["patches"], parts["patches"])


def test_positions_without_variance_are_harmless(maps):
    maps[:, :, 0, 0] = 0
    for name in STATISTICAL:
        scorer, parameters = fitted(name, maps)
        assert scorer.score(parameters, maps).isfinite().all(), name


def test_one_image_is_refused_where_it_gives_no_spread(maps):
    with pytest.raises(UserError, match="needs two or more"):
        fitted("gaussian", maps[:1])


def test_the_ridge_is_a_share_of_the_variance(maps):
    _, parameters = fitted("gaussian", maps)
    _, scaled = fitted("gaussian", 1000 * maps)
    torch.testing.assert_close(scaled["whiten"] * 1000, parameters["whiten"], rtol=1e-3, atol=1e-4)
    assert RIDGE > 0
