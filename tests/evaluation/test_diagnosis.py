import pytest

from mae.evaluation.diagnosis import Finding, diagnose_run, recent
from mae.evaluation.run_record import RunRecord

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


def flat(lr_of):
    """Rows of a run whose loss is steady, with a learning rate by place."""
    return [
        {"step": 20 * i, "epoch": float(i), "loss": 0.6, "lr": lr_of(i), "grad_norm": 1.0}
        for i in range(1, 101)
    ]


def test_a_steady_loss_says_nothing_where_the_learning_rate_has_ended():
    (steady,) = (one for one in diagnose_run(RunRecord(flat(lambda i: 1e-3))) if "Loss" in one.text)
    assert "It has converged, or does not learn" in steady.reason
    cooled = RunRecord(flat(lambda i: 1e-5 * (100 - i)))
    (steady,) = (one for one in diagnose_run(cooled) if "Loss" in one.text)
    assert steady.level == "note" and "where the learning rate is near 0" in steady.text
    assert "nothing about whether longer training" in steady.reason


def test_the_end_of_a_run_is_a_mean_over_steps_not_one_odd_step():
    rows = [{"step": 20 * i, "loss": 0.65} for i in range(1, 11)]
    odd = [*rows, {"step": 201, "loss": 0.25}]
    assert recent(odd, "loss") == pytest.approx(0.65 - 0.4 / 81)
    assert recent(odd[-1:], "loss") == 0.25 and recent([], "loss") is None
    assert recent([*rows, {"step": 201, "loss": float("nan")}], "loss") is None
