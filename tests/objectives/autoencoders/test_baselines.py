"""PCA of images and patches against scikit-learn."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mae.networks.patches import patchify
from mae.objectives.autoencoders import baselines
from mae.objectives.autoencoders.baselines import fit_pca


@pytest.mark.parametrize(("count", "patch"), [(40, 8), (400, 8), (20, 4)])
def test_pca_equals_scikit_learn(count, patch):
    images = torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    ours = fit_pca(images, 5, (patch, patch))
    rows = patchify(images, (patch, patch)).flatten(0, 1).numpy()
    theirs = PCA(5, svd_solver="full").fit(rows)
    expected = theirs.inverse_transform(theirs.transform(rows))
    found = patchify(ours.reconstruct(images), (patch, patch)).flatten(0, 1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_there_are_no_more_components_than_images():
    pca = fit_pca(torch.rand(3, 1, 8, 8), 10, (8, 8))
    assert len(pca.basis) == 3


def test_components_without_variance_do_not_spoil_the_others():
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    images[8:] = images[:1]
    pca = fit_pca(images, 20, (16, 16))
    torch.testing.assert_close(pca.basis @ pca.basis.T, torch.eye(20), rtol=0, atol=1e-5)
    torch.testing.assert_close(pca.reconstruct(images), images, rtol=0, atol=1e-4)


def test_components_are_chosen_on_images_that_are_kept_out_of_the_fit(monkeypatch):
    pixels = torch.randint(256, (30, 1, 4, 4), dtype=torch.uint8)
    monkeypatch.setattr(baselines, "training_pixels", lambda held_out, img_size: pixels)
    seen = []

    def choose(images, widest):
        seen.append(images)
        return widest

    held_out: Any = SimpleNamespace(device="cpu")
    found = baselines.fit_baselines(held_out, (4, 4), 5, (4, 4), choose)
    unit = pixels.float() / 255
    assert torch.equal(seen[0], unit[:6])
    assert torch.equal(found.pca.mean, fit_pca(unit[6:], 5, (4, 4)).mean)
