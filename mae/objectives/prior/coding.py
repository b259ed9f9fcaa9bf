"""Probabilities of an image's codes by a prior, step by step, as an entropy coder needs them.

Coder and decoder must get the same bits, so both run the same steps with the same shapes, in
float64 on one thread of the CPU: a product of matrices may round differently on two threads.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from math import cos, pi
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mae.base.tensor_hashing import counters
from mae.networks.transformer import SequenceTransformer
from mae.objectives.capabilities import CodeSteps, Probabilities

Module = TypeVar("Module", bound=nn.Module)


class PriorNetwork(NamedTuple):
    """Layers of a prior over the codes of one image."""

    embed: nn.Embedding
    """of the tokens, and of the start or mask token"""
    pos_embed: Float[Tensor, "1 n d"]
    transformer: SequenceTransformer
    head: nn.Linear
    lengths: Sequence[int]
    """codes of each level"""
    codes_per_level: int
    passes: int
    """of a masked prior; 0: causal"""

    @property
    def length(self) -> int:
        """Codes of an image."""
        return sum(self.lengths)

    def exact(self) -> "PriorNetwork":
        """A copy for the coder: float64, on the CPU."""

        def exact(module: Module) -> Module:
            return deepcopy(module).to("cpu", torch.float64).eval()

        return self._replace(
            embed=exact(self.embed),
            pos_embed=self.pos_embed.detach().to("cpu", torch.float64),
            transformer=exact(self.transformer),
            head=exact(self.head),
        )


def predictor(network: PriorNetwork) -> Callable[[int], CodeSteps]:
    """CodeSteps of the codes of a number of images; the copy for it is made at its first use."""
    copies: list[PriorNetwork] = []

    def predict(count: int) -> CodeSteps:
        if not copies:
            copies.append(network.exact())
        return (predict_in_passes if network.passes else predict_in_order)(copies[0], count)

    return predict


@contextmanager
def one_thread() -> Iterator[None]:
    """Block without gradients, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def predict_in_order(network: PriorNetwork, count: int) -> CodeSteps:
    """Each code from those before it, by a causal prior, which remembers keys and values."""
    with one_thread():
        past = network.transformer.past(count, network.length)
        tokens = torch.full((count, 1), network.embed.num_embeddings - 1)
    place = 0
    for level, length in enumerate(network.lengths):
        for _ in range(length):
            with one_thread():
                x = network.embed(tokens) + network.pos_embed[:, place : place + 1]
                values = probabilities(network, network.transformer.step(x, past, place), level)
            codes = yield Probabilities([place], values)
            tokens = codes + level * network.codes_per_level
            place += 1


def predict_in_passes(network: PriorNetwork, count: int) -> CodeSteps:
    """Some codes per pass from all those before, by a masked prior; its mask falls as a cosine.

    Codes of one pass are taken as independent, which costs bits.  The order is a fixed random one,
    as in training.
    """
    length, mask = network.length, network.embed.num_embeddings - 1
    order = counters(torch.zeros(1, dtype=torch.int64), length)[0].argsort(stable=True).tolist()
    level_of = [level for level, many in enumerate(network.lengths) for _ in range(many)]
    tokens = torch.full((count, length), mask)
    known = 0
    for number in range(1, network.passes + 1):
        left = int(length * cos(pi / 2 * number / network.passes))
        end = length if number == network.passes else length - left
        if end == known:
            continue
        with one_thread():
            hidden = network.transformer(network.embed(tokens) + network.pos_embed)
        for level in range(len(network.lengths)):
            places = [place for place in sorted(order[known:end]) if level_of[place] == level]
            if places:
                with one_thread():
                    values = probabilities(network, hidden[:, places], level)
                codes = yield Probabilities(places, values)
                tokens[:, places] = codes + level * network.codes_per_level
        known = end


def probabilities(
    network: PriorNetwork, hidden: Float[Tensor, "b m d"], level: int
) -> Float[Tensor, "b m k"]:
    """Probabilities of the codes of a level from the transformer's output."""
    first = level * network.codes_per_level
    own = slice(first, first + network.codes_per_level)
    logits = nn.functional.linear(hidden, network.head.weight[own], network.head.bias[own])
    return logits.softmax(dim=2)
