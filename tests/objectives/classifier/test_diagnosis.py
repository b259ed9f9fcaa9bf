import math

import pytest

from mae.evaluation.diagnosis import diagnose_run
from mae.evaluation.run_record import RunRecord
from mae.objectives.classifier.diagnosis import diagnose

EVALUATION = {
    "accuracy": 0.7,
    "balanced_accuracy": 0.68,
    "classes": [{"name": "cat", "accuracy": 0.9}, {"name": "dog", "accuracy": 0.4}],
}


def rows(accuracy=0.6):
    return [{"step": i, "epoch": float(i), "accuracy": accuracy} for i in range(1, 6)]


def health(*accuracies, losses=(), below=0.02, epoch=20.0):
    found = [
        {
            "epoch": epoch,
            "accuracy": accuracy,
            "balanced_accuracy": accuracy - below,
            "interval": [accuracy - 0.03, accuracy + 0.03],
        }
        for accuracy in accuracies
    ]
    for row, loss in zip(found, losses, strict=bool(losses)):
        row["loss"] = loss
    return found


def findings(metrics=(), measured=(), classes=10.0, evaluation=None):
    settings = {"optim.warmup_epochs": 5.0, "finetune.num_classes": classes}
    evaluations = {"evaluation": evaluation} if evaluation else {}
    run = RunRecord(metrics, measured, settings, evaluations)
    return diagnose_run(run, diagnose(run))


def levels_of(metrics=(), measured=(), classes=10.0, evaluation=None):
    found = findings(metrics, measured, classes, evaluation)
    return {finding.text: finding.level for finding in found}


RISING = "Held-out accuracy 70.0% (67.0–73.0), still rising"


@pytest.mark.parametrize(
    ("measured", "text", "level"),
    [
        (health(0.5, 0.6, 0.7), RISING, "good"),
        (health(0.5, 0.7, 0.695, 0.7), "Held-out accuracy 70.0% (67.0–73.0), steady", "good"),
        (health(0.5, 0.7), "Held-out accuracy 70.0% (67.0–73.0)", "good"),
        (
            health(0.5, 0.7, 0.6),
            "Held-out accuracy 60.0% (57.0–63.0), down from 70.0%",
            "watch",
        ),
        (health(0.5, 0.7, 0.68), "Held-out accuracy 68.0% (65.0–71.0), steady", "good"),
        (
            health(0.13),
            "Held-out accuracy 13.0% (10.0–16.0) is no better than guessing",
            "bad",
        ),
        (
            health(0.13, epoch=3.0),
            "Held-out accuracy 13.0% (10.0–16.0) is no better than guessing",
            "watch",
        ),
        (
            health(0.7, below=0.6),
            "Held-out accuracy 70.0% (67.0–73.0) is no better than guessing",
            "bad",
        ),  # always the commonest class
        (
            health(0.5, 0.6, 0.7, losses=(1.0, 0.8, 0.95)),
            "Held-out cross-entropy rises: 0.950, 0.800 at best",
            "watch",
        ),
        (
            health(0.7, below=0.2),
            "Rare classes do worse: 50.0% as the mean of the classes",
            "watch",
        ),
    ],
)
def test_findings_on_held_out_accuracy(measured, text, level):
    assert levels_of(rows(), measured).get(text) == level


def test_a_good_run_has_good_findings_only():
    found = levels_of(rows(), health(0.5, 0.6, 0.7, losses=(1.0, 0.8, 0.7)), 10.0, EVALUATION)
    assert found.pop("Too early to evaluate the loss") == "watch"
    assert found == {RISING: "good"}


@pytest.mark.parametrize(("trained", "is_reported"), [(0.95, True), (0.75, False), (0.3, False)])
def test_the_gap_between_training_and_held_out(trained, is_reported):
    text = "25 points more accurate in training than on held-out images"
    assert (text in levels_of(rows(trained), health(0.5, 0.6, 0.7))) is is_reported


def test_classes_that_are_never_recognised_are_named():
    classes = [{"name": f"c{i}", "accuracy": 0.0} for i in range(5)] + [
        {"name": "x", "accuracy": 1}
    ]
    classes += [{"name": "absent", "accuracy": None}, {"name": "odd", "accuracy": "0"}]
    found = levels_of(rows(), health(0.7), 10.0, {"classes": classes})
    assert found.get("5 of 8 classes never recognised: c0, c1, c2 …") == "watch"
    assert not any("never" in text for text in levels_of(rows(), health(0.7), 10.0, EVALUATION))


def test_accuracy_is_not_praised_without_its_baseline():
    for measured in (health(0.7), health(0.5, 0.6, 0.7), health(0.5, 0.7, 0.695, 0.7)):
        levels = levels_of(measured=measured, classes=None)
        assert {level for text, level in levels.items() if "accuracy" in text} == {"note"}
    (found,) = findings(measured=health(0.7))
    assert found.level == "good" and "Guessing is 10.0%" in found.reason


def test_a_run_without_held_out_images_has_a_finding():
    assert levels_of(rows())["Never measured on held-out images"] == "watch"
    assert levels_of() == {}


def test_rows_may_lack_any_number():
    odd = [{}, {"accuracy": math.nan}, {"accuracy": 0.5, "interval": [1], "loss": None}]
    assert "Held-out accuracy 50.0%" in "".join(levels_of(odd, odd, None))
    assert levels_of([], odd, 0.0, {"classes": 3})


def test_findings_are_sorted_by_level():
    measured = health(0.13, losses=(1.0,))
    levels = [v.level for v in findings(rows(), measured)]
    assert (
        levels == sorted(levels, key=("bad", "watch", "note", "good").index) and levels[0] == "bad"
    )


def test_one_answer_for_every_image_is_said_beside_the_commonest_class():
    (row,) = health(0.7, below=0.6)
    row |= {"commonest_accuracy": 0.7, "classes_answered": 1}
    found = next(one for one in findings(measured=[row]) if one.level == "bad")
    assert "It answers one class for every image." in found.reason
    assert "Always answering the commonest class: 70.0%." in found.reason
