"""Scorer `decoder`."""

import pytest
import torch

from mae.anomaly import decoder
from mae.anomaly.decoder import Decoder, as_tokens, decoded, dissimilarity, linear_attention

WIDTH, LAYERS = 24, 2


def features(count, seed=0):
    """Maps on a curve: two hidden numbers of each patch, so that normal ones are predictable."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 2, 5, 4, generator=random)
    mix = torch.randn(WIDTH, 2, generator=torch.Generator().manual_seed(9))
    return torch.einsum("dk,bkhw->bdhw", mix, hidden.tanh())


def trained(layers=LAYERS, seed=0, count=32):
    maps, scorer = features(count), Decoder()
    parameters = scorer.finish(scorer.collect(maps, range(count), 0))

    def batches(steps):
        for step in range(steps):
            yield maps[8 * (step % (count // 8)) :][:8]

    shown = []
    found = scorer.train(parameters, batches, layers, seed, lambda *done: shown.append(done))
    assert shown[-1] == (decoder.STEPS, decoder.STEPS)
    return found


@pytest.fixture(scope="module")
def parameters():
    return trained()


@pytest.mark.parametrize("layers", [0, LAYERS])
def test_other_features_score_higher(layers, parameters):
    known = parameters if layers else trained(0)
    normal = features(8, seed=1)
    odd = normal.clone()
    odd[:, :, 2, 1] = odd[:, :, 2, 1].flip(1)  # the numbers of normal patches in another order
    before, after = (Decoder().score(known, one) for one in (normal, odd))
    assert before.shape == (8, 5, 4)
    assert after[:, 2, 1].min() > 3 * before.mean()


def test_training_is_a_function_of_features_and_seed(monkeypatch, parameters):
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = trained()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(again[name], value) for name, value in parameters.items())
    assert again.keys() == parameters.keys()
    monkeypatch.setattr(decoder, "STEPS", 3)
    assert not torch.equal(trained(seed=1)["head.weight"], trained(seed=2)["head.weight"])


def test_attention_equals_its_definition():
    query, key, value = torch.randn(3, 2, 7, 4, generator=torch.Generator().manual_seed(0))
    kernel = torch.nn.ELU()
    weights = (kernel(query) + 1) @ (kernel(key) + 1).transpose(1, 2)
    expected = weights / weights.sum(-1, keepdim=True) @ value
    torch.testing.assert_close(linear_attention(query, key, value), expected)


def test_layers_are_compared_one_by_one(parameters):
    tokens = as_tokens(parameters, features(2, seed=3))
    reproduced = decoded(parameters, tokens)
    own = []
    for layer in range(LAYERS):
        columns = slice(layer * WIDTH // LAYERS, (layer + 1) * WIDTH // LAYERS)
        one, other = tokens[..., columns], reproduced[..., columns]
        own.append(1 - (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1)))
    found = dissimilarity(parameters, tokens, reproduced)
    torch.testing.assert_close(found, torch.stack(own).mean(0), rtol=1e-4, atol=1e-5)


def test_scores_are_one_graph(parameters):
    class Score(torch.nn.Module):
        def forward(self, known, maps):
            return Decoder().score(known, maps)

    maps = features(3, seed=2)
    graph = torch.export.export(Score(), (dict(parameters), maps)).module()
    torch.testing.assert_close(graph(parameters, maps), Decoder().score(parameters, maps))
