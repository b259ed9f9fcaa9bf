"""Warnings from an objective's findings while a run goes on, and what still holds at its end."""

from mae.evaluation.diagnosis import Finding
from mae.objectives.declaration import Declaration
from mae.training.safety.findings import FindingWarnings
from tests.objectives.autoencoders.small import small_config


class Declared(Declaration):
    """Finds what the last rows name."""

    def warn(self, run):
        for row in (*run.metrics, *run.health):
            for name in row.get("found", ()):
                yield Finding("watch", f"{name} at {row['step']}", f"About {name}.")


def test_a_finding_is_printed_once_and_named_again_at_the_end_while_it_holds():
    lines = []
    warnings = FindingWarnings(small_config("ae"), Declared(), lines.append)
    warnings.add_metrics({"step": 10, "found": ["collapse"]})
    warnings.add_health({"step": 10, "found": ["dead", "late"]})
    warnings.add_metrics({"step": 20, "found": ["collapse"]})
    warnings.add_health({"step": 20, "found": ["late", "new"]})
    assert lines == [
        "warning  collapse at 10. About collapse.",
        "warning  dead at 10. About dead.",
        "warning  late at 10. About late.",
        "warning  new at 20. About new.",
    ]
    assert [one.text for one in warnings.lasting(20)] == ["collapse at 20", "late at 20"]
