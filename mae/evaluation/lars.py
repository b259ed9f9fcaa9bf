"""LARS (You, Gitman, Ginsburg 2017, "Large Batch Training of Convolutional Networks")."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

TRUST = 0.001
"""eta of the paper: how far a layer moves in a step, as a share of the length of its weights"""


class LARS(Optimizer):
    """Steps as long as the weights they change (paper, section 4 and algorithm 1).

    With g the gradient of weights w, d = g + weight_decay * w, of each layer

        v ← momentum * v + TRUST * |w| / |d| * d
        w ← w - lr * v

    |d| is the decayed gradient's length, as in the linear probes of MoCo v3 and MAE; the paper's
    |g| + weight_decay * |w| is the same number without decay, which is how those probes use it.
    Vectors (biases, norms) take v ← momentum * v + g: neither scaled nor decayed.  As there, the
    learning rate of each step scales all of v, also what was gathered at other rates.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyrefly: ignore
        """One step; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                state = self.state[weights]
                if not state:
                    state["momentum"] = torch.zeros_like(weights)
                change = scaled(weights, weights.grad, group["weight_decay"])
                state["momentum"].mul_(group["momentum"]).add_(change)
                weights.sub_(group["lr"] * state["momentum"])
        return loss


def scaled(weights: Tensor, gradient: Tensor, weight_decay: float) -> Tensor:
    """What LARS gathers: for all but vectors, the gradient made TRUST times as long as the weights.

    Unscaled where weights or gradient are all zero, so that a layer of zeros can leave them.
    """
    if weights.ndim <= 1:
        return gradient
    change = gradient + weight_decay * weights
    own, length = weights.norm(), change.norm()
    ratio = torch.where((own > 0) & (length > 0), TRUST * own / length, 1.0)
    return change * ratio
