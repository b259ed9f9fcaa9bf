import math

import pytest
import torch

from mae.objectives.base import Output
from mae.objectives.declaration import Kind
from mae.training.meter import Meter

MEANS: dict[str, Kind] = {"mean": "mean", "square": "mean"}


def output(loss, mean=0.0, square=1.0):
    statistics = {"mean": torch.tensor(mean), "square": torch.tensor(square)}
    return Output({"error": torch.tensor(loss)}, statistics, {})


def alone(table, how):
    """The sum and the mean over one process."""
    return table


def make() -> Meter:
    return Meter(torch.device("cpu"), MEANS, losses=["error"])


def test_means_and_r2_over_micro_batches_and_steps():
    meter = make()
    targets = [torch.randn(100, generator=torch.Generator().manual_seed(i)) + i for i in range(4)]
    for i, target in enumerate(targets):
        meter.add(output(0.1 * i, target.mean().item(), target.square().mean().item()))
        if i % 2:
            meter.end_step(i, torch.tensor(float(i)))
    totals = meter.read(alone)
    variance = torch.cat(targets).var(unbiased=False).item()
    assert totals.loss == pytest.approx(0.15)
    mean, square = totals.statistics["mean"], totals.statistics["square"]
    assert isinstance(mean, float) and isinstance(square, float)
    assert square - mean**2 == pytest.approx(variance)
    assert [one.loss for one in totals.steps] == pytest.approx([0.05, 0.25])
    assert [one.step for one in totals.steps] == [1, 3]
    assert [one.grad_norm for one in totals.steps] == [1, 3]
    meter.add(output(5.0))
    meter.end_step(4, torch.tensor(1.0))
    assert meter.read(alone).loss == 5.0  # the interval before is forgotten


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_spoils_no_mean(poison):
    meter = make()
    for loss in (1.0, poison):
        meter.add(output(loss))
    meter.end_step(1, torch.tensor(poison))
    meter.add(output(3.0))
    meter.end_step(2, torch.tensor(1.0))
    totals = meter.read(alone)
    assert totals.loss == 2.0
    assert [one.loss for one in totals.steps] == [1.0, 3.0]
    assert [one.skipped for one in totals.steps] == [True, False]


def test_nothing_finite_is_nan():
    meter = make()
    meter.add(output(math.nan))
    meter.end_step(1, torch.tensor(math.nan))
    assert math.isnan(meter.read(alone).loss)


def test_losses_by_name_and_the_watched_one():
    meter = Meter(torch.device("cpu"), {}, "error", ["error", "kl"])
    for step, (error, kl) in enumerate([(1.0, 0.5), (3.0, 0.25)], 1):
        meter.add(Output({"error": torch.tensor(error), "kl": torch.tensor(kl)}, {}, {}))
        meter.end_step(step, torch.tensor(1.0))
    totals = meter.read(alone)
    assert totals.losses == {"error": 2.0, "kl": 0.375}
    assert totals.loss == 2.375
    assert [one.loss for one in totals.steps] == [1.0, 3.0]


def test_sums_of_any_shape_are_added_up_over_steps_and_processes():
    """Not those of a micro-batch whose loss is not finite; the next report begins at 0."""
    meter = Meter(torch.device("cpu"), {"used": "sum", "nats": "mean"}, losses=["error"])
    rows = [(1.0, [1, 0, 2]), (math.nan, [9, 9, 9]), (2.0, [0, 3, 1])]
    for step, (loss, used) in enumerate(rows, 1):
        statistics = {"used": torch.tensor(used), "nats": torch.tensor(loss)}
        meter.add(Output({"error": torch.tensor(loss)}, statistics, {}))
        meter.end_step(step, torch.tensor(1.0))
    totals = meter.read(lambda table, how: 2 * table if how == "sum" else table)
    assert totals.statistics == {"nats": 1.5, "used": [2.0, 6.0, 6.0]}
    meter.add(Output({"error": torch.tensor(1.0)}, statistics, {}))
    meter.end_step(4, torch.tensor(1.0))
    assert meter.read(alone).statistics["used"] == [0.0, 3.0, 1.0]
