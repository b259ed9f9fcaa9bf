"""Plans of `mae pretrain auto` that the measured speed misses."""

import pytest

from mae.config.choices import GIVEN
from mae.config.sections import AutoConfig, Config, TrainConfig
from mae.training.planned_hours import MISSED, PlanWatch, missed_plan


def planned(hours, reason="by estimate"):
    auto = AutoConfig(hours=hours, chosen={"train.epochs": reason})
    return Config(auto=auto, train=TrainConfig(epochs=19))


def test_a_missed_plan_is_named_with_what_to_type():
    line = missed_plan(planned(0.08), 0.45 * 3600, MISSED)
    assert line and "planned for 0.08 h, but at the measured speed the run takes 0.45 h" in line
    assert "auto.hours=0.014 and another output=" in line and "train.epochs=3.4 " in line
    late = missed_plan(planned(0.08), 9 * 3600, MISSED)
    assert late and "train.epochs" not in late  # below one
    dry = missed_plan(planned(0.08), 0.45 * 3600, MISSED, is_new=True)
    assert dry and "auto.hours=0.014 for a new plan" in dry


@pytest.mark.parametrize("config", [Config(), planned(0.3), planned(0.08, GIVEN)])
def test_kept_plans_and_given_epochs_are_not_named(config):
    assert missed_plan(config, 0.45 * 3600, MISSED) is None


def test_the_warning_comes_once_and_not_from_the_slow_start():
    watch = PlanWatch(planned(0.1), steps=1000)  # 0.36 s a step
    assert watch(100.0, 1) is None  # workers start, kernels are compiled
    assert watch(10.0, 11) is None  # not yet measured
    line = watch(30.0, 41)
    assert line and line.startswith("warning  planned for 0.1 h") and "takes 0.28 h" in line
    assert watch(300.0, 51) is None


def test_a_plan_that_is_kept_stays_without_a_word():
    watch = PlanWatch(planned(0.1), steps=1000)
    assert not any(watch(7.0, step) for step in range(1, 200, 20))
