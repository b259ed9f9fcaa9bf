"""Meter of losses, statistics and gradient norms, kept on the device until reported."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mae.objectives.base import Output, total_loss
from mae.objectives.declaration import Declaration, Kind


class StepNumbers(NamedTuple):
    """Loss and gradient norm of one step, over all processes."""

    step: int
    loss: float
    """mean of the loss that the guard watches; NaN where no micro-batch had a finite one"""
    grad_norm: float
    """norm before clipping"""

    @property
    def skipped(self) -> bool:
        """True where the step was skipped, as its gradient was not finite."""
        return not math.isfinite(self.grad_norm)


class IntervalTotals(NamedTuple):
    """Means and sums since the last report, over all processes."""

    loss: float
    """mean total loss of the micro-batches where it is finite"""
    losses: dict[str, float]
    """mean of each loss by name, over the same micro-batches"""
    statistics: dict[str, float | list[float]]
    """means and sums of the objective's statistics, over the same micro-batches"""
    steps: list[StepNumbers]


class Meter:
    """Accumulates on the device without waiting for it; only `read` synchronises."""

    def __init__(
        self,
        device: torch.device,
        statistics: Mapping[str, Kind] | None = None,
        watched: str | None = None,
        losses: Sequence[str] = (),
    ) -> None:
        """`statistics`, `watched` and `losses`: as the objective declares them."""
        self.device = device
        self.kinds = dict(statistics or {})
        self.watched = watched
        self.losses = list(losses)
        self.step_sums = self._zeros()
        self.steps: list[Tensor] = []
        self.numbers: list[int] = []
        self.totals: dict[str, Tensor] = {}

    @classmethod
    def of(cls, device: torch.device, declared: Declaration) -> "Meter":
        """Build the meter for a declared objective."""
        return cls(device, declared.statistics, declared.guarded_loss, declared.losses)

    def add(self, output: Output) -> None:
        """Add one micro-batch; it is ignored if its loss is not finite."""
        assert list(output.losses) == self.losses, "losses are as the objective declares them"
        assert output.statistics.keys() == self.kinds.keys(), "statistics, too"
        loss = total_loss(output).detach()
        finite = loss.isfinite()
        means = [output.statistics[key] for key, kind in self.kinds.items() if kind == "mean"]
        watched = output.losses[self.watched].detach() if self.watched else loss
        parts = [part.detach() for part in output.losses.values()]
        values = torch.stack([loss, watched, *parts, *means, torch.ones_like(loss)])
        self.step_sums += torch.where(finite, values, 0.0)
        for key, kind in self.kinds.items():
            if kind == "sum":
                value = torch.where(finite, output.statistics[key].double(), 0.0)
                self.totals[key] = self.totals[key] + value if key in self.totals else value

    def end_step(self, step: int, grad_norm: Tensor) -> None:
        """End `step`, which consists of the micro-batches added since the last call."""
        self.numbers.append(step)
        self.steps.append(torch.cat([self.step_sums, grad_norm.detach().to(self.step_sums)[None]]))
        self.step_sums = self._zeros()

    def read(self, reduce: Callable[[Tensor, Literal["mean", "sum"]], Tensor]) -> IntervalTotals:
        """Return the totals since the last call and reset; `reduce` combines the processes."""
        table = reduce(torch.stack(self.steps), "mean").cpu()
        sums = table[:, :-1].sum(dim=0).tolist()
        count = sums.pop()
        loss, _, *others = (total / count if count else math.nan for total in sums)
        means = [key for key, kind in self.kinds.items() if kind == "mean"]
        statistics: dict[str, float | list[float]] = dict(
            zip(means, others[len(self.losses) :], strict=True)
        )
        for key, total in self.totals.items():
            statistics[key] = reduce(total, "sum").tolist()
        steps = [
            StepNumbers(step, row[1] / row[-2] if row[-2] else math.nan, row[-1])
            for step, row in zip(self.numbers, table.tolist(), strict=True)
        ]
        losses = dict(zip(self.losses, others, strict=False))
        self.steps, self.numbers, self.totals = [], [], {}
        return IntervalTotals(loss, losses, statistics, steps)

    def _zeros(self) -> Tensor:
        means = sum(kind == "mean" for kind in self.kinds.values())
        size = 2 + len(self.losses) + means + 1
        return torch.zeros(size, device=self.device, dtype=torch.float64)
