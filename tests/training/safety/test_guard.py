import math

import pytest
import torch

from mae.base.errors import RunFailed
from mae.config.sections import GuardConfig
from mae.training.meter import StepNumbers
from mae.training.safety.guard import Guard, Rollback, SpikeDetector


def numbers(first, norms, loss=1.0):
    return [StepNumbers(first + i, loss, norm) for i, norm in enumerate(norms)]


def test_skipped_steps_are_counted_by_number_and_in_a_row():
    guard = Guard(GuardConfig(max_skipped=3), skipped=10)
    assert guard.evaluate(numbers(1, [1, math.nan, 1, math.inf, math.nan]))[0] == [2, 4, 5]
    assert guard.skipped == 13 and not guard.exceeds_max_skipped()
    guard.check(5)
    assert guard.evaluate(numbers(6, [math.nan]))[0] == [6]  # the third in a row, over two reports
    assert guard.exceeds_max_skipped()
    with pytest.raises(RunFailed, match="the last 3 steps were skipped"):
        guard.check(6)
    guard.evaluate(numbers(7, [1.0]))
    assert not guard.exceeds_max_skipped()


def test_a_spike_stands_out_of_noise_and_a_falling_loss_is_none():
    detector = SpikeDetector(threshold=10)
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(300, generator=generator) * 0.01).tolist()
    losses = [1 / (1 + i / 100) + noise[i] for i in range(300)]
    assert not [one for i, one in enumerate(losses) if detector.evaluate(i, one)]
    spike = detector.evaluate(300, losses[-1] + 1)
    assert spike is not None and spike.step == 300 and spike.score > 10
    assert detector.evaluate(301, losses[-1]) is None  # the spike is no history


def test_no_spikes_before_enough_is_known_nor_where_turned_off():
    detector = SpikeDetector(threshold=5)
    assert [detector.evaluate(i, 1.0 if i < 20 else 50.0) for i in range(25)] == [None] * 25
    off = SpikeDetector(threshold=0)
    assert [off.evaluate(i, 1.0 if i < 100 else 50.0) for i in range(110)] == [None] * 110


def test_a_constant_loss_is_no_reason_for_infinite_scores():
    detector = SpikeDetector(threshold=10)
    assert [detector.evaluate(i, 1.0) for i in range(50)] == [None] * 50
    assert detector.evaluate(50, 1.005) is None


def test_what_is_undone_is_forgotten():
    guard = Guard(GuardConfig(spike=6), skipped=3)
    norms = {20: math.nan, 38: math.nan}
    guard.evaluate([StepNumbers(i, 1 + i % 3 / 100, norms.get(i, 1.0)) for i in range(1, 41)])
    assert guard.skipped == 5
    guard.rewind(30)
    assert guard.skipped == 4 and guard.consecutive_skipped == 0
    assert [step for step, _ in guard.spikes.losses] == [i for i in range(1, 31) if i != 20]
    _, (spike,) = guard.evaluate([StepNumbers(33, 1.0, 1.0)] * 2 + [StepNumbers(36, 50.0, 1.0)])
    assert Rollback(spike).skipped_steps == (33, 36)  # 34 and 35 had been skipped before
