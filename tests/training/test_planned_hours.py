"""Plans of `mae pretrain auto` that the measured speed misses."""

import pytest

from mae.config.choices import GIVEN, plain
from mae.config.loading import load_config
from mae.config.sections import Config
from mae.training.planned_hours import MISSED, PlanWatch, missed_plan


def planned(hours, reason="by estimate", epochs=19):
    auto = {"hours": hours, "chosen": {"train.epochs": reason}}
    train, optim = {"epochs": epochs}, {"warmup_epochs": 1}
    return load_config(None, base={"auto": auto, "train": train, "optim": optim})


def test_a_missed_plan_is_named_with_what_to_type():
    line = missed_plan(planned(0.08), 0.45 * 3600, MISSED, 5000)
    assert (
        line and "planned for 0.08 h, but at the measured speed the run takes 0.45 h, 5.6 " in line
    )
    assert "auto.hours=0.014 and another output=" in line and "train.epochs=3.4 " in line
    late = missed_plan(planned(0.08), 9 * 3600, MISSED, 5000)
    assert late and "train.epochs" not in late  # below one
    dry = missed_plan(planned(0.08), 0.45 * 3600, MISSED, 5000, is_new=True)
    assert dry and "auto.hours=0.014 for a new plan" in dry


def test_numbers_are_plain():
    line = missed_plan(planned(48, epochs=800), 180 * 3600, MISSED, 5000)
    assert line and "the run takes 180 h" in line and "train.epochs=210 " in line
    assert [plain(n) for n in (0.0123, 1.0, 9.96, 15.2, 1234, 2e6)] == [
        *("0.012", "1", "10", "15", "1200", "2000000")
    ]


def test_a_plan_that_is_too_short_is_not_to_be_shortened():
    line = missed_plan(planned(0.01), 0.026 * 3600, 1.25, 664, is_new=True)
    assert line and "2.6 times the estimate" in line
    assert "Its 664 steps are few already. The usual 4,000 take 0.16 h here: " in line
    assert line.count("auto.hours=") == 1 and "auto.hours=0.06, " in line  # as `about_length` says
    assert "train.epochs" not in line
    late = missed_plan(planned(0.01), 0.026 * 3600, MISSED, 664)
    assert late and "auto.hours=0.06 and another output=, " in late


@pytest.mark.parametrize("config", [Config(), planned(0.3), planned(0.08, GIVEN)])
def test_kept_plans_and_given_epochs_are_not_named(config):
    assert missed_plan(config, 0.45 * 3600, MISSED, 5000) is None


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
