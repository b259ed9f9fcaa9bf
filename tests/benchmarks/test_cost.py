"""Counted cost of a step, and our step's lead over other implementations."""

import pytest
import torch
from torch import nn

from benchmarks.cost import Cost, cost_of
from benchmarks.implementations import TEXTBOOK, TRANSFORMERS
from benchmarks.peers import costs
from mae.commands.bench.cases import OURS, Case
from mae.objectives.mae.decoder import Block, Decoder

SMALL = Case(encoder="vit_tiny_patch16_224", img_size=64, decoder_depth=2)

MOST = {"gflop": 0.89, "saved_mb": 0.915, "traffic_mb": 0.93}
"""upper limits of our cost relative to the others', half a percent above the actual ratios"""


@pytest.fixture(scope="module")
def cost():
    return costs(SMALL)


def test_a_linear_layer_by_hand():
    layer, x = nn.Linear(4, 3), torch.ones(2, 4)
    counted = cost_of(lambda: layer(x).sum(), layer)
    # Forward and the weight's gradient multiply [2 4] by [4 3]; x is all that backward needs.
    assert counted.flops == 2 * (2 * 2 * 4 * 3)
    assert counted.saved_bytes == 4 * (2 * 4)
    assert layer.weight.grad is None


def test_traffic_by_hand():
    x = torch.ones(10, requires_grad=True)
    counted = cost_of(lambda: x.view(2, 5).sum(), nn.Identity())
    # The sum: 10 floats to 1.  Backward: ones_like, 1 to 1; the gradient is a view of that, and is
    # copied to its place (source, target, and the target again as the result).
    assert counted.operations == 3
    assert counted.traffic_bytes == 4 * ((10 + 1) + (1 + 1) + (10 + 10 + 10))
    assert isinstance(counted, Cost) and counted.flops == 0


def test_the_cost_is_deterministic(cost):
    assert costs(SMALL) == cost


def test_memory_saved_twice_is_counted_once():
    x = torch.ones(8, requires_grad=True)
    counted = cost_of(lambda: (x.exp() ** 2 * 3).sum(), nn.Identity())
    # exp saves its result, which is also the argument saved by the power.
    assert counted.saved_bytes == 4 * 8


@pytest.mark.parametrize("peer", [TEXTBOOK, TRANSFORMERS])
@pytest.mark.parametrize("what", MOST)
def test_our_step_keeps_its_lead(cost, peer, what):
    assert cost[OURS][what] / cost[peer][what] < MOST[what]


def test_the_peers_do_the_same_products(cost):
    assert cost[TEXTBOOK]["gflop"] == pytest.approx(cost[TRANSFORMERS]["gflop"], rel=1e-6)


def all_queries(monkeypatch):
    forward = Block.forward

    def slowly(self, x, num_queries=None):
        y = forward(self, x)
        return y if num_queries is None else y[:, -num_queries:]

    monkeypatch.setattr(Block, "forward", slowly)


def whole_head(monkeypatch):
    """Pass all tokens through the last block, the norm and the head."""
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, num_queries=None: forward(self, x))
    decode = Decoder.forward

    def slowly(self, latent, split):
        return decode(self, latent, split)[:, -split.ids_masked.shape[1] :]

    monkeypatch.setattr(Decoder, "forward", slowly)


@pytest.mark.parametrize("lose", [all_queries, whole_head])
def test_a_lost_lead_fails_the_comparison(lose, cost, monkeypatch):
    lose(monkeypatch)
    worse = costs(SMALL)
    for what, most in MOST.items():
        assert worse[OURS][what] / worse[TEXTBOOK][what] > most, what
