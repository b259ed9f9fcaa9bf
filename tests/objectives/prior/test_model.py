"""Priors over codes: what each code may depend on, the draw of hidden codes, samples."""

from math import pi

import pytest
import torch

from mae.base.tensor_hashing import uniforms
from mae.objectives.prior.model import CodePrior, draw_code
from mae.objectives.registry import config_type, implementation
from tests.objectives.autoencoders.small import pictures, seeds, small_config


def prior(kind: str) -> CodePrior:
    """Prior of random weights over 16 positions and 16 codes."""
    tokenizer = small_config("vqvae", latent_dim=4, codebook_size=16).model_dump(mode="json")
    model = {"dim": 16, "depth": 2, "num_heads": 2, "tokenizer_config": tokenizer, "kind": kind}
    torch.manual_seed(0)
    config = config_type("prior").model_validate({"objective": "prior", "model": model})
    built = implementation("prior").build(config)
    assert isinstance(built, CodePrior)
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
