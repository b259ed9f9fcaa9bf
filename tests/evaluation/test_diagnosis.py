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


def test_features_of_any_objective_are_diagnosed():
    found = {finding.text: finding.level for finding in diagnose_run(RunRecord(health=[HEALTH]))}
    assert found == {
        "Features are spread out: RankMe 3 of 4": "good",
        "k-NN accuracy 60% (chance 10%)": "good",
    }


def test_findings_of_the_objective_are_included():
    own = Finding("bad", "The code book is dead", "No entry is used.")
    found = diagnose_run(RunRecord([{"step": 1, "epoch": 1.0, "loss": 1.0}], [HEALTH]), [own])
    assert found[0] == own and len(found) == 4


def test_warmup_comes_from_the_settings():
    early = {**HEALTH, "rankme": 0.01}
    assert diagnose_run(RunRecord(health=[early]))[0].level == "bad"
    during = RunRecord(health=[early], settings={"optim.warmup_epochs": 100})
    assert "RankMe" not in "".join(finding.text for finding in diagnose_run(during))
