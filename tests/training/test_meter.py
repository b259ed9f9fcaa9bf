import math

import pytest
import torch

from mae.objective import Output
from mae.training.meter import Meter


def output(loss, mean=0.0, square=1.0):
    return Output(torch.tensor(loss), torch.tensor([mean, square]))


def test_means_and_r2_over_micro_batches_and_steps():
    meter = Meter(torch.device("cpu"))
    targets = [torch.randn(100, generator=torch.Generator().manual_seed(i)) + i for i in range(4)]
    for i, target in enumerate(targets):
        meter.add(output(0.1 * i, target.mean().item(), target.square().mean().item()))
        if i % 2:
            meter.end_step(i, torch.tensor(float(i)))
    totals = meter.read(lambda table: table)
    variance = torch.cat(targets).var(unbiased=False).item()
    assert totals.loss == pytest.approx(0.15)
    mean, square = totals.statistics
    assert square - mean**2 == pytest.approx(variance)
    assert [one.loss for one in totals.steps] == pytest.approx([0.05, 0.25])
    assert [one.step for one in totals.steps] == [1, 3]
    assert [one.grad_norm for one in totals.steps] == [1, 3]
    meter.add(output(5.0))
    meter.end_step(4, torch.tensor(1.0))
    assert meter.read(lambda table: table).loss == 5.0  # the interval before is forgotten


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_spoils_no_mean(poison):
    meter = Meter(torch.device("cpu"))
    for loss in (1.0, poison):
        meter.add(output(loss))
    meter.end_step(1, torch.tensor(poison))
    meter.add(output(3.0))
    meter.end_step(2, torch.tensor(1.0))
    totals = meter.read(lambda table: table)
    assert totals.loss == 2.0
    assert [one.loss for one in totals.steps] == [1.0, 3.0]
    assert [one.skipped for one in totals.steps] == [True, False]


def test_nothing_finite_is_nan():
    meter = Meter(torch.device("cpu"))
    meter.add(output(math.nan))
    meter.end_step(1, torch.tensor(math.nan))
    assert math.isnan(meter.read(lambda table: table).loss)
