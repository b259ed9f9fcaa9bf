"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


class MovingAverage:
    """Moving average of every trainable parameter, on the same device with the same sharding.

    Build it after `accelerator.prepare`.  Buffers are not averaged: an evaluation with averaged
    weights uses the model's own buffers.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the current weights; `decay` in [0, 1), approached by a warm-up."""
        self.model, self.decay = model, decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.is_applied = False

    def tensors(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        return dict(self.averages)

    @torch.no_grad()
    def restart(self) -> None:
        """Reset the averages to the current weights, after these were loaded."""
        for name, parameter in self.parameters.items():
            local(self.averages[name]).copy_(local(parameter))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages after `step` (from 1): decay min(decay, (1 + step) / (10 + step)).

        Without this warm-up the initial weights would dominate for thousands of steps (the rule
        of TensorFlow's ExponentialMovingAverage with num_updates).
        """
        assert not self.is_applied
        averages = [local(average) for average in self.averages.values()]
        weights = [local(parameter.detach()) for parameter in self.parameters.values()]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the averaged weights; no training inside.

        Weights and averages are swapped in place.  All processes call it together if the model
        is sharded.
        """
        assert not self.is_applied
        self._swap()
        self.is_applied = True
        try:
            yield
        finally:
            self.is_applied = False
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # otherwise it keeps using the weights gathered before
        for name, parameter in self.parameters.items():
            weights, average = local(parameter.detach()), local(self.averages[name])
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)


def local(tensor: Tensor) -> Tensor:
    """View of this process's shard; the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
