"""An exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


class Average:
    """One tensor for each trainable parameter, on its device, sharded as it is.

    Made of a model as `accelerator.prepare` leaves it.  Buffers are not averaged: what is
    evaluated with averaged weights has the model's own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begins at the weights as they are."""
        self.model, self.decay = model, decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.is_applied = False

    def tensors(self) -> dict[str, Tensor]:
        """Parameter name → average."""
        return dict(self.averages)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again at the weights, which were loaded."""
        for name, parameter in self.parameters.items():
            local(self.averages[name]).copy_(local(parameter))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move a little towards the weights after `step` (from 1); less so than at first.

        Without a warm-up the first weights would stay in it for thousands of steps (as in
        TensorFlow's ExponentialMovingAverage, with its number of updates).
        """
        assert not self.is_applied
        averages = [local(average) for average in self.averages.values()]
        weights = [local(parameter.detach()) for parameter in self.parameters.values()]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights, for as long as it takes; no training meanwhile.

        Weights and averages change places in the memory that they have.  All processes do it
        together where the model is sharded.
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
                module.reshard()  # else it would go on with the weights that it has gathered
        for name, parameter in self.parameters.items():
            weights, average = local(parameter.detach()), local(self.averages[name])
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)


def local(tensor: Tensor) -> Tensor:
    """This process's part, in place; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
