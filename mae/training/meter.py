"""Numbers of every step, kept on the device until they are reported."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mae.objectives.base import Output, total_loss
from mae.objectives.declaration import Declaration, Kind


class StepNumbers(NamedTuple):
    """Numbers of one step, over all processes."""

    step: int
    loss: float
    """the one that is watched; NaN where no micro-batch had a finite one"""
    grad_norm: float

    @property
    def skipped(self) -> bool:
        """The step did nothing: its gradient was not finite."""
        return not math.isfinite(self.grad_norm)


class IntervalTotals(NamedTuple):
    """Since the last report, over all processes."""

    loss: float
    """mean of the finite ones"""
    losses: dict[str, float]
    """means of its parts, over the same micro-batches"""
    statistics: dict[str, float | list[float]]
    """means and sums of the objective's own, over the same micro-batches"""
    steps: list[StepNumbers]


class Meter:
    """Adds up on the device, without ever waiting for it; `read` is the only synchronisation."""

    def __init__(
        self,
        device: torch.device,
        statistics: Mapping[str, Kind] | None = None,
        watched: str | None = None,
        losses: Sequence[str] = (),
    ) -> None:
        """`statistics`, `watched` and `losses` as an objective declares them."""
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
        """A meter for what an objective returns."""
        return cls(device, declared.statistics, declared.guarded_loss, declared.losses)

    def add(self, output: Output) -> None:
        """Include one micro-batch; one whose loss is not finite counts as none."""
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
        """The micro-batches since the last call were `step`, of this gradient."""
        self.numbers.append(step)
        self.steps.append(torch.cat([self.step_sums, grad_norm.detach().to(self.step_sums)[None]]))
        self.step_sums = self._zeros()

    def read(self, reduce: Callable[[Tensor, Literal["mean", "sum"]], Tensor]) -> IntervalTotals:
        """The numbers of the steps since the last call; `reduce` is over processes."""
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
