"""Priors over codes: what each code may depend on, the draw of hidden codes, samples."""

from math import pi

import pytest
import torch

from mae.base.tensor_hashing import uniforms
from mae.objectives.prior.declaration import marginal_bits
from mae.objectives.prior.model import CodePrior, draw_code
from tests.objectives.autoencoders.small import DONE, pictures, seeds, small_prior


def prior(kind: str, tokenizer: str = "vqvae") -> CodePrior:
    """Prior of random weights over 16 positions and 16 codes."""
    built = small_prior(tokenizer, kind=kind, depth=2)
    torch.nn.init.normal_(built.head.weight)
    return built.eval()


@torch.no_grad()
def test_a_causal_prior_predicts_each_code_from_those_before_it():
    model = prior("causal")
    codes = torch.randint(16, (3, 16), generator=torch.Generator().manual_seed(1))
    before = model.logits_of(model.shifted(codes))
    for position in (0, 7, 15):
        other = codes.clone()
        other[:, position] = (other[:, position] + 1) % 16
        changed = (model.logits_of(model.shifted(other)) - before).abs().amax(dim=(0, 2)) > 1e-6
        assert changed.tolist() == [later > position for later in range(16)]
    expected = -before.log_softmax(2).gather(2, codes[:, :, None])[:, :, 0]
    torch.testing.assert_close(model.nats(codes), expected)


@torch.no_grad()
def test_a_causal_sample_is_drawn_code_by_code_from_these_probabilities():
    model = prior("causal")
    codes = model.sample_codes(seeds())
    scores, chance = model.logits_of(model.shifted(codes)), uniforms(seeds(), 16)
    assert torch.equal(codes, draw_code(scores, chance))


@torch.no_grad()
def test_hidden_codes_are_not_seen_and_the_others_are():
    model = prior("masked")
    codes = torch.randint(16, (3, 16), generator=torch.Generator().manual_seed(1))
    hidden = torch.arange(16).expand(3, -1) < 4
    before = model.logits_of(model.masked(codes, hidden))
    for position, is_seen in ((2, False), (9, True)):
        other = codes.clone()
        other[:, position] = (other[:, position] + 1) % 16
        assert torch.equal(model.logits_of(model.masked(other, hidden)), before) != is_seen


def test_the_share_of_hidden_codes_is_that_of_maskgit():
    hidden = prior("masked").draw(pictures(1), torch.arange(4000)).hidden
    assert hidden is not None
    counts = hidden.sum(dim=1)
    assert counts.min() == 1 and counts.max() == 16
    mean = (counts.double() - 0.5).mean() / 16  # rounded up: half a code more on average
    assert mean == pytest.approx(2 / pi, abs=0.01)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_samples_depend_on_their_seeds_alone(kind):
    model = prior(kind)
    many, one = model.sample_codes(seeds()), model.sample_codes(seeds()[2:3])
    assert torch.equal(many[2:3], one) and not torch.equal(many[0], many[1])
    assert many.min() >= 0 and many.max() < 16
    assert len(many.unique()) > 4


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_damaged_weights_give_no_pictures(kind):
    model = prior(kind)
    assert model.sample(seeds()).isfinite().all()
    model.head.weight.data[3] = torch.nan
    assert model.sample(seeds()).isnan().all()


@torch.no_grad()
def test_codes_are_drawn_with_their_probabilities():
    scores = torch.tensor([0.1, 0.6, 0.3]).log().expand(30000, 3)
    drawn = draw_code(scores, uniforms(torch.arange(30000), 1)[:, 0])
    shares = torch.bincount(drawn, minlength=3) / 30000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.01)


@torch.no_grad()
def test_top_codes_come_first_and_are_decoded_again_with_the_bottom_ones():
    model, images = prior("causal", "vqvae2"), pictures()
    codes = model.codes(images)
    top, bottom = model.tokenizer.bottleneck.split(model.tokenizer.codes(images))
    assert torch.equal(codes, torch.cat([top.flatten(1), bottom.flatten(1) + 16], 1))
    made = model.tokenizer.reconstruct(images, model.tokenizer.draw(images, seeds())).pasted
    assert torch.equal(model.pictures(codes), made)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_each_level_has_the_probabilities_of_its_own_codes(kind):
    model, images = prior(kind, "vqvae2"), pictures()
    codes = model.codes(images)
    noise = model.draw(images, seeds())
    tokens = model.shifted(codes) if kind == "causal" else model.masked(codes, noise.hidden)
    raw, chances = model.head(model.hidden_states(tokens)), model.logits_of(tokens).softmax(2)
    torch.testing.assert_close(chances[:, :4, :16], raw[:, :4, :16].softmax(2))
    torch.testing.assert_close(chances[:, 4:, 16:], raw[:, 4:, 16:].softmax(2))
    assert not chances[:, :4, 16:].any() and not chances[:, 4:, :16].any()
    for temperature in (1.0, 0.2):
        drawn = model.sample_codes(seeds(), temperature)
        assert drawn[:, :4].max() < 16 <= drawn[:, 4:].min() and drawn.max() < 32
    assert model.sample(seeds()).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_nats_of_the_levels_are_those_of_their_predicted_codes(kind):
    model, images = prior(kind, "vqvae2"), pictures()
    noise = model.draw(images, seeds())
    output = model(images, noise, DONE)
    nats = model.nats(model.codes(images), noise.hidden)
    hidden = torch.ones_like(nats) if noise.hidden is None else noise.hidden.float()
    counted = nats * hidden
    expected = torch.stack([counted[:, :4].sum(), counted[:, 4:].sum()]).double()
    torch.testing.assert_close(output.statistics["level_nats"], expected, rtol=1e-5, atol=0)
    assert output.statistics["level_codes"].tolist() == [hidden[:, :4].sum(), hidden[:, 4:].sum()]
    if kind == "causal":
        torch.testing.assert_close(output.losses["codes"].double(), expected.sum() / (6 * 20))


def test_by_frequency_each_level_costs_its_own_entropy():
    assert marginal_bits([5, 5, 0, 0, 10, 10, 10, 10], levels=2) == pytest.approx(
        (10 * 1 + 40 * 2) / 50
    )
    assert marginal_bits([1, 1, 1, 1], levels=1) == 2


@torch.no_grad()
def test_temperature_divides_the_scores():
    model = prior("causal")
    codes = model.sample_codes(seeds(), 0.5)
    scores, chance = model.logits_of(model.shifted(codes)) / 0.5, uniforms(seeds(), 16)
    assert torch.equal(codes, draw_code(scores, chance))


@pytest.mark.parametrize("tokenizer", ["vqvae", "vqvae2"])
def test_trivial_samples_draw_each_code_by_its_frequency(tokenizer, monkeypatch):
    model = prior("causal", tokenizer)
    known = torch.cat([model.codes(pictures()) for _ in range(2)])
    monkeypatch.setattr(CodePrior, "pictures", lambda self, codes: codes)
    drawn = model.trivial_samples(pictures(), torch.arange(2000))
    assert torch.equal(drawn[:3], model.trivial_samples(pictures(), torch.arange(3)))
    for ours, theirs in zip(
        drawn.split(model.lengths, 1), known.split(model.lengths, 1), strict=True
    ):
        expected = torch.bincount(theirs.flatten(), minlength=model.num_codes).double()
        found = torch.bincount(ours.flatten(), minlength=model.num_codes).double()
        assert torch.equal(found > 0, expected > 0)
        gap = found / found.sum() - expected / expected.sum()
        assert gap.abs().max() < 0.02
