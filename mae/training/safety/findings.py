"""Warnings from the objective's findings on the run's own numbers, each printed once."""

from collections.abc import Callable, Mapping
from typing import Any

from mae.base.errors import RunFailed
from mae.config.sections import Config
from mae.config.types import flatten
from mae.evaluation.diagnosis import Finding
from mae.evaluation.run_record import RunRecord
from mae.objectives.declaration import Declaration
from mae.objectives.registry import declaration
from mae.training.plan import TrainingSetup
from mae.training.short_plans import Length, about_length


def cautions(setup: TrainingSetup) -> list[Finding]:
    """Findings on settings that are likely to waste the run: the objective's, and its length."""
    config, plan, _ = setup
    length = Length(plan.num_samples, plan.steps, plan.lr)
    own = declaration(config.objective).cautions(config, plan.num_samples)
    return [*own, *about_length(config, length)]


class FindingWarnings:
    """Prints each finding of the objective once; with guard.strict the first ends the run.

    All processes get the same rows and so raise together.
    """

    def __init__(
        self, config: Config, declared: Declaration, print_line: Callable[[str], None]
    ) -> None:
        self.declared, self.print_line = declared, print_line
        self.strict = config.guard.strict
        self.settings = flatten(config.model_dump(mode="json"))
        self.metrics: list[Mapping[str, Any]] = []
        self.health: list[Mapping[str, Any]] = []
        self.printed: dict[str, Any] = {}
        """reason → step at which it was printed"""
        self.standing: list[Finding] = []
        """findings on the last rows"""
        self.fatal: Finding | None = None

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Evaluate after a row of metrics.jsonl."""
        self.metrics = [row]
        self._evaluate(row)

    def add_health(self, row: Mapping[str, Any]) -> None:
        """Evaluate after a row of health.jsonl."""
        self.health = [row]
        self._evaluate(row)

    def lasting(self, step: int) -> list[Finding]:
        """Findings on the last rows that were printed before `step`, far above its lines."""
        return [one for one in self.standing if self.printed[one.reason] != step]

    def check(self) -> None:
        """Raise RunFailed after a finding, if guard.strict is on."""
        if self.fatal is not None:
            finding = self.fatal
            raise RunFailed(f"guard.strict: {finding.text}. {finding.reason}")

    def _evaluate(self, row: Mapping[str, Any]) -> None:
        run = RunRecord(self.metrics, self.health, self.settings)
        self.standing = list(self.declared.warn(run))
        for finding in self.standing:
            if finding.reason not in self.printed:  # the text has numbers that change
                self.printed[finding.reason] = row.get("step")
                self.print_line(f"warning  {finding.text}. {finding.reason}")
            if self.strict and self.fatal is None:
                self.fatal = finding
