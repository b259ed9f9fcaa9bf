from mae.evaluation.diagnosis import Finding, RunRecord, diagnose_run

HEALTH = {
    "epoch": 90.0,
    "images": 500,
    "width": 4,
    "rankme": 3.0,
    "spread": 0.5,
    "dead": 0.0,
    "knn": 0.6,
    "chance": 0.1,
}


def levels_of(*health):
    return {finding.text: finding.level for finding in diagnose_run(RunRecord(health=health))}


def test_features_of_any_objective_are_diagnosed():
    """A number is good only beside its baseline."""
    rank = {"Features have not collapsed: RankMe 3 of 4": "note"}
    assert levels_of(HEALTH) == rank | {"k-NN accuracy 60% (chance 10%)": "note"}
    better = "k-NN accuracy 60% (chance 10%), 30% at first"
    assert levels_of({**HEALTH, "knn": 0.3}, HEALTH) == rank | {better: "good"}
    equal = "k-NN accuracy 60% (chance 10%), 59% at first"
    assert levels_of({**HEALTH, "knn": 0.59}, HEALTH) == rank | {equal: "watch"}
    unlabelled = {**HEALTH, "knn": None, "chance": None}
    assert levels_of(unlabelled) == rank


def test_features_at_chance_are_never_praised():
    first, second = diagnose_run(RunRecord(health=[{**HEALTH, "knn": 0.1}]))
    assert (first.level, first.text) == ("watch", "k-NN accuracy 10% is chance (10%)")
    assert second.level == "note" and second.text.startswith("Features have not collapsed")
    assert second.reason.startswith("Yet k-NN accuracy 10% is chance (10%). A high RankMe does not")


def test_findings_of_the_objective_are_included():
    own = Finding("bad", "The code book is dead", "No entry is used.")
    found = diagnose_run(RunRecord([{"step": 1, "epoch": 1.0, "loss": 1.0}], [HEALTH]), [own])
    assert found[0] == own and len(found) == 4


def test_warmup_comes_from_the_settings():
    early = {**HEALTH, "rankme": 0.01}
    assert diagnose_run(RunRecord(health=[early]))[0].level == "bad"
    during = RunRecord(health=[early], settings={"optim.warmup_epochs": 100})
    assert "RankMe" not in "".join(finding.text for finding in diagnose_run(during))
