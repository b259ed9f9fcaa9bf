"""Planned hours of `mae pretrain auto` beside the measured speed: a warning where they are missed.

The plan is made from an estimate of the machine, which other programs on it do not change.
"""

from mae.config.choices import GIVEN, plain
from mae.config.sections import Config
from mae.objectives.registry import declaration

MISSED, MISSED_IN_DRY_RUN = 2.0, 1.25
"""ratio of needed to planned time from which it is named"""
LEAST_SECONDS, LEAST_SHARE = 30.0, 0.1
"""training before the speed counts as measured: seconds, or a share of shorter plans"""


def planned_hours(config: Config) -> float | None:
    """Hours that auto planned the epochs for; None: no plan, or epochs that the user gave."""
    is_chosen = config.auto.chosen.get("train.epochs", GIVEN) != GIVEN
    return config.auto.hours if is_chosen else None


def missed_plan(
    config: Config, seconds: float, ratio: float, steps: int, *, is_new: bool = False
) -> str | None:
    """Line on a plan that needs `seconds`, more than `ratio` times its hours; None: it does not.

    A plan of so few `steps` that it should be longer is not to be shortened.  `is_new`: its folder
    holds no run yet.
    """
    hours = planned_hours(config)
    if hours is None:
        return None
    needed = seconds / 3600
    if needed <= ratio * hours:
        return None
    share = hours / needed
    late = (
        f"planned for {hours:g} h, but at the measured speed the run takes {plain(needed)} h, "
        f"{plain(1 / share)} times the estimate (a slow or busy machine?). "
    )
    other = " and another output=" * (not is_new)
    fewest = declaration(config.objective).fewest_steps(config)
    if steps < fewest:
        longer = fewest / steps
        return (
            f"{late}Its {steps:,} steps are few already. The usual {fewest:,} take "
            f"{plain(needed * longer)} h here: type the command with "
            f"auto.hours={plain(hours * longer)}{other}, which plans them by the same estimate"
        )
    epochs = config.train.epochs * share
    shorter = f", or with train.epochs={plain(epochs)} for a shorter one" * (epochs >= 1)
    return (
        f"{late}To be done in {hours:g} h, type the command with auto.hours={plain(hours * share)}"
        f"{other} for a new plan{shorter}"
    )


class PlanWatch:
    """Warning printed once if a run takes far longer than planned; called at every report."""

    def __init__(self, config: Config, steps: int) -> None:
        """`steps`: optimizer steps of the whole run."""
        self.config, self.steps = config, steps
        planned = 3600 * (config.auto.hours or 0.0)
        self.least = min(LEAST_SECONDS, LEAST_SHARE * planned)
        self.last_step: int | None = None
        """step of the last report; None before the first, whose interval has a slow start"""
        self.is_done = config.auto.hours is None
        self.trained, self.elapsed = 0, 0.0

    def __call__(self, seconds: float, step: int) -> str | None:
        """Add an interval of `seconds` up to `step`; returns the warning once it is due."""
        last, self.last_step = self.last_step, step
        if self.is_done or last is None or step <= last:
            return None
        self.trained += step - last
        self.elapsed += seconds
        if self.elapsed < self.least:
            return None
        self.is_done = True
        whole = self.elapsed / self.trained * self.steps
        line = missed_plan(self.config, whole, MISSED, self.steps)
        return None if line is None else f"warning  {line} (Ctrl-C stops this run at a checkpoint)"
