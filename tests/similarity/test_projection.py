"""Maps in two dimensions."""

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mae.base.errors import UserError
from mae.evaluation.nearest import nearest
from mae.similarity import projection as module
from mae.similarity.projection import (
    Projection,
    coordinates,
    principal_components,
    project,
    require_projection,
)
from mae.similarity.quality import agreements, at_unit_length


def no_news(done, total):
    """For commands that show none."""


@pytest.fixture(scope="module")
def clusters():
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(6, 10))
    return (np.repeat(centres, 20, 0) + rng.normal(size=(120, 10))).astype(np.float32)


def test_principal_components_are_those_of_scikit_learn(clusters, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 50)
    ours, theirs = principal_components(clusters, 3), PCA(3).fit(clusters.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours.basis), np.abs(theirs.components_), atol=1e-6)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, atol=1e-9)
    np.testing.assert_allclose(
        np.abs(coordinates(clusters, ours)), np.abs(theirs.transform(clusters)), atol=1e-4
    )
    assert (ours.basis.max(1) >= -ours.basis.min(1)).all()


def test_fewer_dimensions_than_wanted():
    line = np.arange(6, dtype=np.float32)[:, None]
    places = coordinates(line, principal_components(line, 2))
    assert places.shape == (6, 2) and not places[:, 1].any()


def test_tsne_keeps_clusters_and_is_the_same_each_time(clusters):
    settings, news = Projection(perplexity=10), []
    near = nearest(clusters, clusters, settings.neighbours(120), own=np.arange(120))
    places = project(clusters, settings, near, lambda done, total: news.append((done, total)))
    again = project(clusters, settings, near, no_news)
    np.testing.assert_array_equal(places, again)
    assert places.shape == (120, 2) and news[-1] == (1000, 1000)
    found = agreements(at_unit_length(clusters), {"map": places}, np.repeat(np.arange(6), 20))
    same = found["map"].same_class
    assert same is not None and same > 0.95


def test_identical_vectors_and_few_of_them_have_a_map():
    for count in (5, 9):
        vectors = np.ones((count, 4), np.float32)
        near = nearest(vectors, vectors, Projection().neighbours(count), own=np.arange(count))
        assert np.isfinite(project(vectors, Projection(), near, no_news)).all()
    with pytest.raises(UserError, match="4 images: a map needs at least 5"):
        project(np.ones((4, 4), np.float32), Projection("pca"), None, no_news)


def test_umap_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match="needs umap-learn"):
        require_projection("umap")
    require_projection("tsne")
