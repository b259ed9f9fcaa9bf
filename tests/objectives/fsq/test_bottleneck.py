"""Finite scalar quantisation against vector-quantize-pytorch."""

import pytest
import torch

from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.fsq.bottleneck import FiniteScalarQuantizer
from tests.objectives.autoencoders.small import NO_PROGRESS


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [8, 8, 8, 5, 5], [4, 3], [4]])
def test_forward_gradient_and_codes_equal_an_independent_implementation(levels, monkeypatch):
    library = pytest.importorskip("vector_quantize_pytorch")
    shape = MapShape(6, 3, 3)
    torch.manual_seed(0)
    ours = FiniteScalarQuantizer(shape, levels)
    theirs = library.FSQ(levels)
    vectors = (3 * torch.randn(5, len(levels), 3, 3)).requires_grad_()
    monkeypatch.setattr(ours.to_latent, "forward", lambda features: vectors)
    latent = ours(torch.zeros(5, *shape), None, NO_PROGRESS)
    rows = vectors.detach().movedim(1, -1).flatten(1, 2).requires_grad_()
    quantised, codes = theirs(rows)
    torch.testing.assert_close(latent.values.movedim(1, -1).flatten(1, 2), quantised)
    assert torch.equal(ours.codes(torch.zeros(5, *shape)).flatten(1), codes.long())
    weight = torch.randn(quantised.shape)
    (latent.values.movedim(1, -1).flatten(1, 2) * weight).sum().backward()
    (quantised * weight).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad.movedim(1, -1).flatten(1, 2), rows.grad)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4, 3], [4]])
def test_every_code_is_its_vectors_code(levels):
    ours = FiniteScalarQuantizer(MapShape(6, 1, 1), levels)
    codes = torch.arange(ours.num_codes)[:, None, None]
    vectors = ours.embed(codes)
    assert vectors.abs().max() <= 1 and len(vectors.unique(dim=0)) == ours.num_codes
    rounded = vectors.movedim(1, -1) * ours.half_width
    assert torch.equal(ours._index(rounded), codes)


def test_the_uses_are_counted():
    ours = FiniteScalarQuantizer(MapShape(6, 2, 2), [3, 3])
    latent = ours(torch.randn(7, 6, 2, 2), None, NO_PROGRESS)
    assert latent.statistics["uses"].sum() == 7 * 4
