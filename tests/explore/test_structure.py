import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness as theirs
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

from mae.explore import structure
from mae.explore.structure import (
    directions,
    distances_of,
    k_means,
    nearest_neighbours,
    principal_components,
    trust,
)
from mae.similarity.quality import sampled


@pytest.fixture
def unit():
    return directions(np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32))


@pytest.mark.parametrize("cells", [2**22, 1000])
def test_neighbours_are_those_of_scikit_learn(unit, monkeypatch, cells):
    monkeypatch.setattr(structure, "CELLS", cells)
    seen = []
    found = nearest_neighbours(unit, lambda done, total: seen.append((done, total)), 5)
    oracle = NearestNeighbors(n_neighbors=6, metric="cosine").fit(unit)
    distances, ids = oracle.kneighbors(unit)
    assert (found.ids == ids[:, 1:]).all()
    assert np.allclose(found.distances, distances[:, 1:], atol=1e-6)
    assert seen[-1] == (150, 150)


def test_directions_of_large_vectors():
    found = directions(np.array([[3e25, 4e25], [0, 0]], np.float32))
    assert np.allclose(found, [[0.6, 0.8], [0, 0]])


def test_few_images_have_all_others_as_neighbours():
    found = nearest_neighbours(directions(np.eye(3, dtype=np.float32)), lambda *_: None)
    assert found.ids.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_distances_are_those_of_scikit_learn(unit, monkeypatch):
    monkeypatch.setattr(structure, "CELLS", 100)
    ids = np.random.default_rng(2).integers(-1, len(unit), (len(unit), 3))
    oracle = cosine_distances(unit)
    there = np.where(ids < 0, np.nan, oracle[np.arange(len(unit))[:, None], ids])
    assert np.allclose(distances_of(unit, ids), there, atol=1e-6, equal_nan=True)


def test_trust_stands_beside_principal_components(unit):
    found = trust(unit, unit[:, :2].copy())
    assert found is not None and found.images == 150
    assert found.map == pytest.approx(theirs(unit, unit[:, :2], n_neighbors=10), abs=1e-6)
    plain = PCA(2).fit_transform(unit)
    ours = principal_components(unit)
    assert np.allclose(np.abs(ours), np.abs(plain), atol=1e-4)
    assert found.pca == pytest.approx(theirs(unit, plain, n_neighbors=10), abs=1e-4)
    assert trust(unit[:20], unit[:20, :2]) is None


def test_trust_is_among_the_images_that_embed_compares(unit, monkeypatch):
    chosen = sampled(len(unit), most=60)
    monkeypatch.setattr(structure, "sampled", lambda count: sampled(count, most=60))
    found = trust(unit, unit[:, :2].copy())
    assert found is not None and found.images == 60
    assert found.map == pytest.approx(theirs(unit[chosen], unit[chosen, :2], n_neighbors=10))


def test_torch_is_not_imported():
    """The page needs none, and its import takes seconds."""
    script = "import sys, mae.explore.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_clusters_are_found_again_largest_first():
    chance = np.random.default_rng(1)
    sizes = (20, 60, 40)
    centres = np.array([[0, 0], [9, 0], [0, 9]])
    points = np.concatenate(
        [centre + chance.normal(size=(n, 2)) for n, centre in zip(sizes, centres, strict=True)]
    ).astype(np.float32)
    found = k_means(points, 3)
    assert found.tolist() == [2] * 20 + [0] * 60 + [1] * 40
    assert (k_means(points, 3) == found).all()


def test_equal_points_are_one_cluster():
    assert k_means(np.zeros((5, 2), np.float32), 4).tolist() == [0] * 5
