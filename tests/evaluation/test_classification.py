"""Report of a classifier's predictions."""

import numpy as np
import pytest

from mae.evaluation.classification import class_report, class_table
from mae.evaluation.confidence import wilson
from mae.evaluation.predictions import Predictions


def predictions_of(labels, predicted) -> Predictions:
    count = len(labels)
    return Predictions(
        np.array(labels), np.array(predicted), np.ones(count, bool), np.ones(count, np.float32), []
    )


def test_report_is_consistent():
    labels, predicted = [0, 0, 0, 1, 1, 3], [0, 1, 1, 1, 0, 4]
    report = class_report(predictions_of(labels, predicted), ["cat", "dog", "eel", "fox", "gnu"])
    by_name = {one["name"]: one for one in report["classes"]}
    assert by_name.keys() == {"cat", "dog", "fox", "gnu"}  # an eel neither occurs nor is guessed
    assert sum(one["images"] for one in report["classes"]) == report["images"] == 6
    assert by_name["cat"]["accuracy"] == pytest.approx(1 / 3)
    assert by_name["cat"]["interval"] == list(wilson(1 / 3, 3))
    assert by_name["cat"]["precision"] == by_name["dog"]["accuracy"] == 1 / 2
    assert by_name["fox"]["accuracy"] == 0 and by_name["fox"]["precision"] is None
    assert by_name["gnu"]["accuracy"] is None and by_name["gnu"]["precision"] == 0
    assert np.sum(report["confusion"]) == 6 and np.trace(report["confusion"]) == 2
    assert report["errors"] == [
        {"class": "cat", "taken_for": "dog", "images": 2},
        {"class": "dog", "taken_for": "cat", "images": 1},
        {"class": "fox", "taken_for": "gnu", "images": 1},
    ]
    assert report["balanced_accuracy"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)


def test_a_classifier_with_one_answer_is_named():
    report = class_report(predictions_of([0, 0, 1, 1, 1], [1] * 5), ["good", "defect"])
    assert report["accuracy"] == report["commonest_accuracy"] == 0.6
    assert report["commonest_name"] == "defect" and report["balanced_accuracy"] == 0.5
    assert report["notes"] == ["answers defect for every image, whatever it shows"]
    assert class_report(predictions_of([1, 1], [1, 1]), ["good", "defect"])["notes"] == []
    assert class_report(predictions_of([0, 1], [1, 0]), ["good", "defect"])["notes"] == []


def test_many_classes_record_only_the_commonest_errors():
    labels = np.arange(300)
    report = class_report(predictions_of(labels, (labels + 1) % 300), [f"c{i}" for i in range(300)])
    assert "confusion" not in report
    assert len(report["errors"]) == 50 and len(report["classes"]) == 300


def test_table_of_the_report():
    names = ["cat", "dog", "eel", "fox", "gnu", "hen"]
    report = class_report(predictions_of([0, 0, 0, 1, 1, 3], [0, 1, 1, 1, 0, 3]), names)
    assert class_table(report, rows=2).splitlines() == [
        "accuracy          50.0%  (18.8–81.2, 95 % interval) on 6 images",
        "balanced          61.1%  (mean over the classes)",
        "always commonest  50.0%  (cat for every image)",
        "among top 5      100.0%",
        "cross-entropy     1.000",
        "weakest classes",
        "   33.3% of     3  cat",
        "   50.0% of     2  dog",
        "commonest errors",
        "       2  cat taken for dog",
        "       1  dog taken for cat",
    ]
    few = class_table(class_report(predictions_of([0, 1], [0, 1]), ["cat", "dog"]))
    assert "top" not in few, "of two classes each guess is among the top 5"
    assert "weakest" not in few and "errors" not in few
