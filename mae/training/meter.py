"""Numbers of every step, kept on the device until they are reported."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mae.objective import Output


class StepNumbers(NamedTuple):
    """What one step was, over all processes."""

    step: int
    loss: float
    """NaN where no micro-batch had a finite one"""
    grad_norm: float

    @property
    def skipped(self) -> bool:
        """The step did nothing: its gradient was not finite."""
        return not math.isfinite(self.grad_norm)


class Totals(NamedTuple):
    """Since the last report, over all processes."""

    loss: float
    """mean of the finite ones"""
    statistics: tuple[float, float]
    """means of the objective's own statistics, over the same micro-batches"""
    steps: list[StepNumbers]


class Meter:
    """Adds up on the device, without ever waiting for it; `read` is the only synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, device=device, dtype=torch.float64)
        self.steps: list[Tensor] = []
        self.numbers: list[int] = []

    def add(self, output: Output) -> None:
        """Include one micro-batch; one whose loss is not finite counts as none."""
        loss = output.loss.detach()
        one = torch.ones_like(loss)
        values = torch.stack([loss, *output.statistics, one])
        self.sums += torch.where(loss.isfinite(), values, 0.0)

    def end_step(self, step: int, grad_norm: Tensor) -> None:
        """The micro-batches since the last call were `step`, of this gradient."""
        self.numbers.append(step)
        self.steps.append(torch.cat([self.sums, grad_norm.detach().to(self.sums)[None]]))
        self.sums = torch.zeros_like(self.sums)

    def read(self, mean_over_processes: Callable[[Tensor], Tensor]) -> Totals:
        """The numbers of the steps since the last call."""
        table = mean_over_processes(torch.stack(self.steps)).cpu()
        loss, *statistics, count = table[:, :4].sum(dim=0).tolist()
        first, second = (total / count if count else math.nan for total in statistics)
        loss = loss / count if count else math.nan
        rows = zip(self.numbers, table.tolist(), strict=True)
        steps = [
            StepNumbers(step, total / finite if finite else math.nan, norm)
            for step, (total, _, _, finite, norm) in rows
        ]
        self.steps, self.numbers = [], []
        return Totals(loss, (first, second), steps)
