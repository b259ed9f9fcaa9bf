"""Two levels of codes: what each may depend on, codes back to images, both codebooks moving."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mae.base.errors import UserError
from mae.objectives.autoencoders.backbones import MapShape, encode_map
from mae.objectives.autoencoders.discrete import DiscreteImplementation
from mae.objectives.base import StepEnd, total_loss
from mae.objectives.registry import implementation
from mae.objectives.vqvae.levels.bottleneck import TwoLevelQuantizer
from mae.objectives.vqvae.levels.declaration import DECLARATION
from tests.objectives.autoencoders.small import NO_PROGRESS, build, pictures, seeds, small_config

SMALL: dict[str, Any] = {"latent_dim": 4, "codebook_size": 16}


def started(**model: Any) -> Any:
    """Model whose codebooks are the k-means of one step."""
    built, images = build("vqvae2", **SMALL, **model), pictures()
    output = built(images, built.draw(images, seeds()), NO_PROGRESS)
    built.after_step(StepEnd(1, 0, torch.tensor(False), output.carry))
    return built


@pytest.mark.parametrize("backbone", ["conv", "vit"])
def test_decoding_both_levels_codes_is_the_reconstruction_bit_for_bit(backbone):
    model, images = started(backbone=backbone), pictures()
    codes = model.codes(images)
    assert codes.shape == (6, 5, 2, 2) and codes.dtype == torch.int64
    made = model.reconstruct(images, model.draw(images, seeds())).pasted
    assert torch.equal(model.decode_codes(codes), made)


def test_codes_are_split_into_the_maps_of_the_levels_and_joined_again():
    quantizer = build("vqvae2", **SMALL).bottleneck
    codes = torch.randint(16, (3, 5, 2, 4), generator=torch.Generator().manual_seed(0))
    top, bottom = quantizer.split(codes)
    assert torch.equal(top, codes[:, 0])
    assert torch.equal(bottom, F.pixel_shuffle(codes[:, 1:], 2)[:, 0])  # torch's own
    assert torch.equal(quantizer.join((top, bottom)), codes)


@torch.no_grad()
def test_the_bottom_codes_are_the_nearest_given_the_top_codes():
    model, images = started(), pictures()
    own = model.bottleneck
    features = encode_map(model.encoder, model.normalize(images))

    def by_hand(top_codes: torch.Tensor) -> torch.Tensor:
        raised = own.up(own.widen(own.top.codebook[top_codes].movedim(-1, 1)))
        vectors = own.bottom.to_latent(torch.cat([features, raised], 1)).movedim(1, -1)
        return torch.cdist(vectors.flatten(0, 2), own.bottom.codebook).argmin(1).view(6, 4, 4)

    top, bottom = own.split(model.codes(images))
    vectors = own.top.to_latent(own.down(features)).movedim(1, -1).flatten(0, 2)
    assert torch.equal(torch.cdist(vectors, own.top.codebook).argmin(1).view(6, 2, 2), top)
    assert torch.equal(by_hand(top), bottom)
    assert not torch.equal(by_hand((top + 5) % 16), bottom)  # the top conditions the bottom


def test_one_level_alone_has_the_mean_vector_of_the_other():
    model, images = started(), pictures()
    own = model.bottleneck
    own.bottom.counts.copy_(torch.arange(16.0))
    codes = model.codes(images)
    top, bottom = own.split(codes)
    mean = (own.bottom.codebook * torch.arange(16.0)[:, None]).sum(0) / 120
    raised = own.up(own.widen(own.top.embed(top)))
    expected = torch.cat([raised, mean.view(1, 4, 1, 1).expand(6, -1, 4, 4)], 1)
    top_alone, bottom_alone = own.alone(codes)
    torch.testing.assert_close(top_alone, expected)
    other = own.join(((top + 1) % 16, bottom))
    assert torch.equal(own.alone(other)[1], bottom_alone)
    assert not torch.equal(own.alone(other)[0], top_alone)


def test_after_a_step_each_codebook_has_moved_by_its_own_vectors():
    model, images = build("vqvae2", kmeans_start=False, **SMALL), pictures()
    before = {name: one.clone() for name, one in model.bottleneck.state_dict().items()}
    model.train()
    output = model(images, model.draw(images, seeds()), NO_PROGRESS)
    assert output.carry.keys() == model.merges.keys()
    model.after_step(StepEnd(2, 0, torch.tensor(True), output.carry))
    assert all(
        torch.equal(one, before[name]) for name, one in model.bottleneck.state_dict().items()
    )
    model.after_step(StepEnd(2, 0, torch.tensor(False), output.carry))
    for level, positions in (("top", 4), ("bottom", 16)):
        quantizer = getattr(model.bottleneck, level)
        moved = before[f"{level}.counts"].lerp(output.carry[f"counts_{level}"].float(), 0.01)
        assert output.carry[f"counts_{level}"].sum() == 6 * positions
        kept = moved >= 0.1 * moved.mean()
        torch.testing.assert_close(quantizer.counts[kept], moved[kept])
        assert not torch.equal(quantizer.codebook, before[f"{level}.codebook"])


def test_every_parameter_of_both_levels_gets_a_gradient():
    model, images = build("vqvae2", **SMALL), pictures()
    model.train()
    output = model(images, model.draw(images, seeds()), NO_PROGRESS)
    total_loss(output).backward()
    assert all(one.grad is not None and one.grad.any() for one in model.parameters())


def test_a_grid_that_cannot_be_halved_is_refused():
    quantizer = build("vqvae2", **SMALL).bottleneck.top
    with pytest.raises(UserError, match="two levels need an even grid"):
        TwoLevelQuantizer(MapShape(16, 3, 4), lambda shape: quantizer, 1)


def test_each_level_is_measured_with_its_share_of_the_bits():
    model, images = started(), pictures()
    own = implementation("vqvae2")
    assert isinstance(own, DiscreteImplementation)
    sums = own.own_sums(model, images, seeds())
    found = own.own_figures(model, sums, len(images))
    assert found["bits_per_pixel"] == pytest.approx(20 * 4 / 256)
    assert found["bits_per_pixel_top"] == pytest.approx(4 * 4 / 256)
    assert found["codes_seen_top"] == 24 and found["codes_seen_bottom"] == 96
    top, _ = model.bottleneck.split(model.codes(images))
    assert found["usage_top"] == len(top.unique()) / 16
    assert 0 < found["psnr_top"] < 40 and found["psnr_top"] != found["psnr_bottom"]
    assert DECLARATION.bits(small_config("vqvae2", **SMALL)) == 80
