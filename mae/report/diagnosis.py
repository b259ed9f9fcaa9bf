"""Findings of a report: on a run's settings, by its objective, and on any run."""

from mae.evaluation.diagnosis import Finding, diagnose_run
from mae.report.run_record import Record, cautions


def findings_of(record: Record) -> list[Finding]:
    """All findings on a run, worst first."""
    run = record.recorded
    own = list(record.declared.diagnose(run)) if record.declared else []
    texts = {one.text for one in own}
    own += [one for one in cautions(record) if one.text not in texts]
    return list(diagnose_run(run, own))
