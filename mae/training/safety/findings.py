"""Warnings from the objective's findings on the run's own numbers, each printed once."""

from collections.abc import Callable, Mapping
from typing import Any

from mae.base.errors import RunFailed
from mae.config.sections import Config
from mae.config.types import flatten
from mae.evaluation.diagnosis import Finding, RunRecord
from mae.objectives.declaration import Declaration


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
        self.printed: set[str] = set()
        self.fatal: Finding | None = None

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Evaluate after a row of metrics.jsonl."""
        self.metrics = [row]
        self._evaluate()

    def add_health(self, row: Mapping[str, Any]) -> None:
        """Evaluate after a row of health.jsonl."""
        self.health = [row]
        self._evaluate()

    def check(self) -> None:
        """Raise RunFailed after a finding, if guard.strict is on."""
        if self.fatal is not None:
            finding = self.fatal
            raise RunFailed(f"guard.strict: {finding.text}. {finding.reason}")

    def _evaluate(self) -> None:
        found = self.declared.warn(RunRecord(self.metrics, self.health, self.settings))
        for finding in found:
            if finding.reason not in self.printed:  # the text has numbers that change
                self.printed.add(finding.reason)
                self.print_line(f"warning  {finding.text}. {finding.reason}")
            if self.strict and self.fatal is None:
                self.fatal = finding
