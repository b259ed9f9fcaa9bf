"""AUROC, sensitivity and specificity of classifiers of two classes."""

import numpy as np
import pytest
from sklearn import metrics

from mae.base.errors import UserError
from mae.evaluation.classification import class_report, class_table
from mae.evaluation.confidence import wilson
from mae.evaluation.predictions import Predictions
from mae.evaluation.two_classes import positive_class


def predictions_of(labels, margins) -> Predictions:
    count = len(labels)
    losses = np.ones(count, np.float32)
    answers = (margins > 0).astype(np.int64)
    return Predictions(labels, answers, np.ones(count, bool), losses, [], margins)


@pytest.mark.parametrize("names", [("healthy", "ill"), ("abnormal", "normal")])
def test_numbers_equal_scikit_learn(names):
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, 60)
    margins = np.round(labels - 0.5 + chance.normal(0, 1, 60), 1)  # with ties
    report = class_report(predictions_of(labels, margins), names)
    found, positive = report["two_classes"], int(names[1] == "ill")
    truth, scores = labels == positive, margins if positive else -margins
    assert found["positive"] == names[positive]
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    low, high = found["auroc_interval"]
    assert 0 < low < found["auroc"] < high < 1
    answers = (margins > 0) == positive
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(truth, answers))
    assert found["specificity"] == pytest.approx(metrics.recall_score(~truth, ~answers))
    assert found["sensitivity_interval"] == list(wilson(found["sensitivity"], int(truth.sum())))
    table = class_table(report)
    assert f"positive class   {names[positive]} (the other class is called" in table
    assert f"AUROC             {found['auroc']:.3f}" in table and "specificity" in table


@pytest.mark.parametrize(
    ("names", "chosen", "number"),
    [
        (("abnormal", "normal"), "", 0),
        (("normal", "pneumonia"), "", 1),
        (("effusion", "no_finding"), "", 0),
        (("cat", "dog"), "", 1),
        (("cat", "dog"), "cat", 0),
        (("negative", "normal"), "", 1),  # both, so neither tells
        (("nodule", "vessel"), "", 1),
    ],
)
def test_names_decide_which_class_is_positive(names, chosen, number):
    assert positive_class(names, chosen).number == number


def test_wrong_positive_classes_are_refused():
    with pytest.raises(UserError, match=r"--positive: no class is called bird: cat, dog"):
        positive_class(("cat", "dog"), "bird")
    with pytest.raises(UserError, match=r"--positive: the classifier has 3 classes, not two"):
        positive_class(("a", "b", "c"), "a")


def test_images_of_one_class_have_no_auroc():
    found = class_report(predictions_of(np.ones(3, int), np.ones(3)), ("cat", "dog"))
    assert found["two_classes"]["auroc"] is found["two_classes"]["specificity"] is None
    assert "sensitivity      100.0%" in class_table(found)


def test_other_numbers_of_classes_have_none_of_these():
    report = class_report(predictions_of(np.arange(3) % 2, np.ones(3)), ("a", "b", "c"))
    assert "two_classes" not in report and "AUROC" not in class_table(report)
