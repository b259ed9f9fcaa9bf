"""Explained variance of the dictionary, PCA and top-k PCA, against plain computations."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mae.evaluation.token_pca import fit_token_pca, variance_figures
from mae.objectives.sae.measure import rows_of, token_sums
from tests.objectives.autoencoders.small import pictures
from tests.objectives.sae.small import LATENTS, WIDTH, small_sae


@torch.no_grad()
def test_figures_equal_plain_computations_on_all_tokens_at_once():
    model, images = small_sae(), pictures(12, 3)
    fitted = rows_of(model, model.tokens(pictures(40, 3)))
    pca = fit_token_pca(fitted.split(100))
    assert pca.tokens == 640
    theirs = PCA().fit(fitted.numpy())
    cosines = np.abs((pca.basis.numpy() * theirs.components_).sum(axis=1))
    well_separated = theirs.explained_variance_ > 1e-9 * theirs.explained_variance_[0]
    assert cosines[well_separated] == pytest.approx(1, abs=1e-5)

    sums = np.sum([token_sums(model, pca, part) for part in images.split(5)], axis=0)
    found = variance_figures(pca, sums)
    rows = rows_of(model, model.tokens(images)).numpy()
    again = rows_of(model, model.dictionary.decode(model.latents(images))).numpy()
    variance = np.square(rows - rows.mean(axis=0)).sum()
    active = (model.latents(images) > 0).flatten(0, 1).numpy()
    count = active.sum() / len(rows)
    assert found["active_latents"] == pytest.approx(count)
    assert found["dead_latents"] == pytest.approx(1 - active.any(axis=0).mean())
    assert found["tokens"] == len(rows) == 192 and active.shape == (192, LATENTS)
    expected = 1 - np.square(rows - again).sum() / variance
    assert found["explained"] == pytest.approx(expected, abs=1e-9)

    components = (rows - theirs.mean_) @ theirs.components_.T
    by_size = np.argsort(-np.abs(components), axis=1)

    def explained(kept: int, order: np.ndarray) -> float:
        chosen = np.zeros_like(components)
        index = order[:, :kept]
        np.put_along_axis(chosen, index, np.take_along_axis(components, index, 1), 1)
        made = chosen @ theirs.components_ + theirs.mean_
        return float(1 - np.square(rows - made).sum() / variance)

    first = np.tile(np.arange(WIDTH), (len(rows), 1))
    low, share = int(count), count - int(count)
    for name, order in (("pca", first), ("topk_pca", by_size)):
        between = (1 - share) * explained(low, order) + share * explained(low + 1, order)
        assert found[f"explained_{name}"] == pytest.approx(between, abs=1e-6), name
    assert found["explained_topk_pca"] >= found["explained_pca"]
    assert 1 <= found["token_rank"] <= WIDTH


@torch.no_grad()
def test_tokens_that_are_all_alike_have_one_effective_dimension_and_no_variance():
    model = small_sae()
    flat = torch.full((4, 3, 16, 16), 100, dtype=torch.uint8)
    pca = fit_token_pca([rows_of(model, model.tokens(pictures(20, 3)))])
    found = variance_figures(pca, token_sums(model, pca, flat))
    assert all(np.isfinite(value) for value in found.values())
    assert found["token_rank"] < 8
