"""Probabilities of codes step by step: those of the prior, the same in every call."""

import pytest
import torch

from mae.objectives.capabilities import ImageCoding
from tests.objectives.autoencoders.small import pictures, small_prior


def coding(kind: str, tokenizer: str = "vqvae"):
    """Prior of random weights, and its coding."""
    built = small_prior(tokenizer, kind=kind, depth=2).eval()
    torch.nn.init.normal_(built.head.weight)
    found = built.coding()
    assert isinstance(found, ImageCoding)
    return built, found


def stepped(found: ImageCoding, codes: torch.Tensor):
    """Probability of each code [b n], and the number of steps."""
    assert found.predict is not None
    prediction, values, steps = found.predict(len(codes)), torch.zeros(codes.shape).double(), 0
    step = next(prediction, None)
    while step is not None:
        positions = list(step.positions)
        own = codes[:, positions]
        assert (values[:, positions] == 0).all()
        values[:, positions] = step.values.gather(2, own[..., None])[..., 0]
        torch.testing.assert_close(step.values.sum(2), torch.ones(own.shape).double())
        steps += 1
        try:
            step = prediction.send(own)
        except StopIteration:
            step = None
    return values, steps


@torch.no_grad()
@pytest.mark.parametrize("tokenizer", ["vqvae", "vqvae2"])
def test_steps_of_a_causal_prior_give_its_probabilities(tokenizer):
    built, found = coding("causal", tokenizer)
    maps = found.encode(pictures())
    codes = torch.cat([one.flatten(1) for one in maps], dim=1)
    values, steps = stepped(found, codes)
    assert steps == built.length
    expected = (-built.nats(built.codes(pictures()))).exp()
    torch.testing.assert_close(values.float(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("tokenizer", ["vqvae", "vqvae2"])
def test_passes_of_a_masked_prior_give_all_codes_once(tokenizer):
    built, found = coding("masked", tokenizer)
    codes = torch.cat([one.flatten(1) for one in found.encode(pictures())], dim=1)
    values, steps = stepped(found, codes)
    assert (values > 0).all() and steps <= 2 * built.passes
    first, _ = stepped(found, codes[:, :])
    assert torch.equal(values, first)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_same_bits_on_any_number_of_threads(kind):
    _, found = coding(kind)
    codes = torch.randint(16, (64, 16), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = stepped(found, codes)
        torch.set_num_threads(2)
        two, _ = stepped(found, codes)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_maps_come_back_as_the_same_pictures(kind):
    built, found = coding(kind, "vqvae2")
    maps = found.encode(pictures())
    assert [tuple(one.shape[1:]) for one in maps] == [(2, 2), (4, 4)]
    assert found.strides == [(8, 8), (4, 4)] and not found.any_size
    assert torch.equal(
        found.decode(maps), built.tokenizer.decompress(built.tokenizer.codes(pictures()))
    )
