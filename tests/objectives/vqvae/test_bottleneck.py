"""Vector quantisation against vector-quantize-pytorch; k-means start and revival."""

from typing import Any

import pytest
import torch

from mae.objectives.autoencoders.backbones import MapShape
from mae.objectives.base import StepEnd
from mae.objectives.vqvae import bottleneck
from mae.objectives.vqvae.bottleneck import VectorQuantizer, draw_rows, kmeans, nearest
from tests.objectives.autoencoders.small import NO_PROGRESS, build, pictures, seeds

SHAPE = MapShape(5, 3, 3)


def quantizer(**options) -> VectorQuantizer:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "codebook_size": 8,
        "commitment": 0.25,
        "decay": 0.9,
        "kmeans_start": False,
        "revive_below": 0.0,
    }
    return VectorQuantizer(SHAPE, 4, **settings | options)


class Given:
    """Function that returns these vectors."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return self.vectors


def features(count: int = 6) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def end(latent, number: int = 2, skipped: bool = False) -> StepEnd:
    return StepEnd(number, 0, torch.tensor(skipped), latent.carry)


def test_forward_gradient_and_moving_average_equal_an_independent_implementation(monkeypatch):
    library = pytest.importorskip("vector_quantize_pytorch")
    ours = quantizer()
    theirs = library.VectorQuantize(
        dim=4,
        codebook_size=8,
        decay=0.9,
        commitment_weight=0.25,
        eps=bottleneck.EPS,
        threshold_ema_dead_code=0,
        kmeans_init=False,
        rotation_trick=False,
    ).train()
    book = theirs._codebook
    book.embed.data.copy_(ours.codebook[None])
    book.embed_avg.data.copy_(ours.sums[None])
    book.cluster_size.data.copy_(ours.counts[None])
    for number in range(2, 6):
        maps = features() * number / 3
        vectors = ours.to_latent(maps).detach().requires_grad_()
        monkeypatch.setattr(ours.to_latent, "forward", Given(vectors))
        latent = ours(maps, ours.draw(seeds()), NO_PROGRESS)
        rows = vectors.detach().movedim(1, -1).flatten(1, 2).requires_grad_()
        quantised, codes, loss = theirs(rows)
        found = latent.values.movedim(1, -1).flatten(1, 2)
        torch.testing.assert_close(found, quantised)
        torch.testing.assert_close(latent.losses["commitment"], loss.squeeze())
        weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(number))
        ((found * weight).sum() + latent.losses["commitment"]).backward()
        ((quantised * weight).sum() + loss.squeeze()).backward()
        torch.testing.assert_close(vectors.grad.movedim(1, -1).flatten(1, 2), rows.grad)
        assert torch.equal(ours.codes(maps).flatten(1), codes)
        ours.after_step(end(latent, number))
        torch.testing.assert_close(ours.codebook, book.embed[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.counts, book.cluster_size[0])


def test_decoding_the_codes_is_the_reconstruction_bit_for_bit():
    for name in ("vqvae", "fsq"):
        for backbone in ("conv", "vit"):
            model = build(name, backbone=backbone)
            images = pictures()
            made = model.reconstruct(images, model.draw(images, seeds())).pasted
            assert torch.equal(model.decode_codes(model.codes(images)), made)


def test_nearest_is_the_smallest_distance():
    vectors, codebook = torch.randn(50, 4), torch.randn(9, 4)
    assert torch.equal(nearest(vectors, codebook), torch.cdist(vectors, codebook).argmin(dim=1))


def test_kmeans_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    generator = torch.Generator().manual_seed(0)
    points = centres.repeat_interleave(20, 0) + 0.1 * torch.randn(60, 2, generator=generator)
    found = kmeans(points, points[[0, 25, 45]])
    torch.testing.assert_close(found, points.view(3, 20, 2).mean(dim=1))


def test_rows_are_different_ones_while_there_are_enough():
    words = torch.arange(1, 9) * 12345
    assert len(set(draw_rows(words, 20).tolist())) == 8
    few = draw_rows(words, 3)
    assert set(few.tolist()) == {0, 1, 2}


def test_the_first_step_starts_from_kmeans_of_its_vectors():
    ours = quantizer(kmeans_start=True)
    before = ours.codebook.clone()
    latent = ours(features(), ours.draw(seeds()), NO_PROGRESS)
    ours.after_step(end(latent, number=1))
    assert not torch.equal(ours.codebook, before)
    vectors = ours.to_latent(features()).movedim(1, -1).flatten(0, 2)
    error = torch.cdist(vectors, ours.codebook).min(dim=1).values.square().mean()
    assert error < torch.cdist(vectors, before).min(dim=1).values.square().mean() / 2
    torch.testing.assert_close(ours.sums, ours.codebook * ours.counts[:, None])
    assert ours.counts.sum() == len(vectors)


def test_the_first_step_that_is_not_skipped_starts_the_codebook_and_no_later_one():
    ours, whole = (quantizer(kmeans_start=True, revive_below=0.0) for _ in range(2))
    latent = ours(features(), ours.draw(seeds()), NO_PROGRESS)
    ours.after_step(end(latent, number=1, skipped=True))
    assert not ours.is_started
    ours.after_step(end(latent, number=2))
    assert ours.is_started and (ours.counts == ours.counts[0]).all()
    whole.kmeans_start = False
    whole.load_state_dict(ours.state_dict())
    again = ours(features() / 2, ours.draw(seeds()), NO_PROGRESS)
    for one in (ours, whole):
        one.after_step(end(again, number=3))
    assert torch.equal(ours.codebook, whole.codebook) and not torch.equal(
        ours.counts, ours.counts[:1].expand(8)
    )


def test_unused_codes_become_vectors_of_the_step():
    ours = quantizer(revive_below=0.1)
    ours.codebook[3] = ours.sums[3] = 1e3
    ours.counts[3] = 1e-4
    latent = ours(features(), ours.draw(seeds()), NO_PROGRESS)
    ours.after_step(end(latent))
    candidates = latent.carry["candidates"]
    assert (candidates == ours.codebook[3]).all(dim=1).any()
    torch.testing.assert_close(ours.sums[3], ours.codebook[3] * ours.counts[3])


@pytest.mark.parametrize("number", [1, 2])
def test_a_skipped_step_changes_nothing(number):
    ours = quantizer(kmeans_start=True, revive_below=0.5)
    before = {name: one.clone() for name, one in ours.state_dict().items()}
    latent = ours(features(), ours.draw(seeds()), NO_PROGRESS)
    carry = {name: one * torch.nan for name, one in latent.carry.items()}
    ours.after_step(StepEnd(number, 0, torch.tensor(True), carry))
    assert all(torch.equal(one, before[name]) for name, one in ours.state_dict().items())


def test_vectors_in_turns_give_the_same_codes_and_sums(monkeypatch):
    ours = quantizer()
    whole = ours(features(), ours.draw(seeds()), NO_PROGRESS)
    monkeypatch.setattr(bottleneck, "MOST_DISTANCES", 7 * 8)  # 54 vectors, 7 at a time
    parts = ours(features(), ours.draw(seeds()), NO_PROGRESS)
    assert torch.equal(parts.values, whole.values)
    torch.testing.assert_close(parts.carry, whole.carry)


def test_quantisation_under_bf16_is_that_of_full_precision():
    model = build("vqvae")
    maps = torch.randn(2, 16, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.bottleneck(maps, model.bottleneck.draw(seeds(2)), NO_PROGRESS)
    assert latent.values.dtype == torch.float32
    assert latent.carry["sums"].dtype == torch.float32
