"""Evaluation of a classifier, against scikit-learn and plain NumPy."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from mae.base.errors import RunFailed, StorageError, UserError
from mae.data.images import Images
from mae.data.manifest import build_manifest
from mae.data.views import CentredViews
from mae.evaluation import classification
from mae.evaluation.classification import (
    Predictions,
    class_report,
    class_table,
    confusion,
    evaluate_classifier,
    require_classes,
    summary,
)
from mae.evaluation.confidence import wilson
from tests.evaluation.test_features import spoil

SIZE = (8, 8)
CLASSES = 7


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(classification, "BATCH", 4)


@pytest.fixture
def images(make_shards, tmp_path):
    """22 images of classes 0 to 2."""
    return opened(make_shards(tmp_path, 22))


def opened(pattern) -> Images:
    return Images(build_manifest([pattern], "test"), 3)


def logits(pixels: torch.Tensor) -> torch.Tensor:
    """Logits of 7 classes: a fixed random projection of the pixels."""
    weight = torch.randn(3 * 64, CLASSES, generator=torch.Generator().manual_seed(0))
    return (pixels.float() / 255 - 0.5).flatten(1) @ weight


def of(images: Images, **settings) -> Predictions:
    return evaluate_classifier(
        logits, images, require_classes(images, "test", 3), SIZE, 1.0, **settings
    )


def same(one: Predictions, other: Predictions) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def scores_of(images: Images) -> np.ndarray:
    views = CentredViews(images, SIZE, 1.0)
    return np.concatenate(
        [logits(views.view(sample)[None]).numpy() for sample in range(len(images.manifest))]
    )


def test_numbers_equal_scikit_learn(images, small_batches):
    predictions, scores = of(images), scores_of(images)
    labels = images.manifest.label
    np.testing.assert_array_equal(predictions.labels, labels)
    np.testing.assert_array_equal(predictions.predicted, scores.argmax(1))
    known, every = summary(predictions), list(range(CLASSES))
    assert known["images"] == 22 and known["bad"] == 0
    assert known["accuracy"] == pytest.approx(metrics.accuracy_score(labels, scores.argmax(1)))
    assert known["interval"] == list(wilson(known["accuracy"], 22))
    top = metrics.top_k_accuracy_score(labels, scores, k=5, labels=every)
    assert known["top5"] == pytest.approx(top) and 0 < top < 1
    exponents = np.exp(scores.astype(np.float64))
    probabilities = exponents / exponents.sum(1, keepdims=True)
    loss = metrics.log_loss(labels, probabilities, labels=every)
    assert known["loss"] == pytest.approx(loss, rel=1e-5)
    recalls = metrics.recall_score(labels, scores.argmax(1), average=None, labels=[0, 1, 2])
    assert known["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    matrix = metrics.confusion_matrix(labels, scores.argmax(1), labels=every)
    np.testing.assert_array_equal(confusion(predictions, CLASSES), matrix)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_several_processes_give_bitwise_equal_results(images, small_batches, processes):
    alone, parts = of(images), []
    for rank in range(processes):
        with pytest.raises(Sent):
            of(images, process_index=rank, num_processes=processes, gather=catch(parts))
    for rank in range(processes):
        settings = {"process_index": rank, "num_processes": processes}
        assert same(of(images, **settings, gather=lambda own: list(parts)), alone)


class Sent(Exception):
    """Signals that a process has sent its part and waits for the others."""


def catch(parts: list):
    def gather(own: list) -> list:
        parts.extend(own)
        raise Sent

    return gather


def test_results_are_independent_of_workers(images, small_batches):
    assert same(of(images, workers=1), of(images))


def test_bad_images_are_skipped_and_counted(images, small_batches, make_shards, tmp_path):
    whole = of(images)
    pattern = make_shards(tmp_path / "spoilt", 22)
    spoil(tmp_path / "spoilt", *(f"sample-{number:05d}" for number in (4, 5, 6, 7, 13)))
    predictions = of(opened(pattern))
    kept = [number for number in range(22) if number not in (4, 5, 6, 7, 13)]
    np.testing.assert_array_equal(predictions.predicted, whole.predicted[kept])
    np.testing.assert_array_equal(predictions.labels, whole.labels[kept])
    assert [line.partition("key ")[2][:12] for line in predictions.skipped] == [
        f"sample-{number:05d}" for number in (4, 5, 6, 7, 13)
    ]
    report = class_report(predictions, list("abcdefg"))
    assert (report["images"], report["bad"]) == (17, 5) and len(report["left_out"]) == 5
    assert "17 images, 5 bad" in class_table(report)


def test_no_decodable_image_is_an_error(make_shards, tmp_path):
    pattern = make_shards(tmp_path, 2)
    spoil(tmp_path, "sample-00000", "sample-00001")
    with pytest.raises(UserError, match="none of 2 images"):
        of(opened(pattern))


def test_too_many_bad_images_raise_on_all_processes(small_batches, make_shards, tmp_path):
    """Each process alone may have few enough."""
    pattern = make_shards(tmp_path, 22)
    spoil(tmp_path, *(f"sample-{number:05d}" for number in (4, 5, 8, 9)))
    bad = opened(pattern)
    assert len(of(bad, max_bad=4).skipped) == 4
    with pytest.raises(UserError, match=r"sample-00004.* more than data.max_bad = 3"):
        of(bad, max_bad=3)
    parts: list = []
    for allowed, words in ((3, "4 bad images so far"), (1, "2 bad images so far")):
        parts.clear()
        for rank in (0, 1):
            sizes = {"process_index": rank, "num_processes": 2, "gather": catch(parts)}
            with pytest.raises(Sent):
                of(bad, max_bad=allowed, **sizes)
        for rank in (0, 1):
            sizes = {"process_index": rank, "num_processes": 2, "gather": lambda own: list(parts)}
            with pytest.raises(UserError, match=words):
                of(bad, max_bad=allowed, **sizes)


@pytest.mark.parametrize("trouble", ["gone", "infinite"])
def test_error_of_one_process_is_raised_by_all(
    images, small_batches, tmp_path, monkeypatch, trouble
):
    """Otherwise the others would wait for it forever."""
    error, model = StorageError, logits
    if trouble == "gone":
        next(tmp_path.glob("*-000002.tar")).unlink()  # samples 16 to 21: of process 0 of two, too
    else:
        error = RunFailed
        seen = []

        def model(pixels):
            seen.append(1)
            return logits(pixels) / (0 if len(seen) == 1 else 1)  # the first process's first batch

    parts: list = []
    labels = require_classes(images, "test", 3)
    for rank in (0, 1):
        sizes = {"process_index": rank, "num_processes": 2, "gather": catch(parts)}
        with pytest.raises(Sent):
            evaluate_classifier(model, images, labels, SIZE, 1.0, **sizes)
    for rank in (0, 1):
        sizes = {"process_index": rank, "num_processes": 2, "gather": lambda own: list(parts)}
        with pytest.raises(error):
            evaluate_classifier(logits, images, labels, SIZE, 1.0, **sizes)


def test_labels_must_be_classes_of_the_model(images, make_shards, tmp_path):
    np.testing.assert_array_equal(require_classes(images, "data.val", 3), images.manifest.label)
    with pytest.raises(UserError) as refused:
        require_classes(images, "data.val", 2)
    message = str(refused.value)
    assert message.startswith("data.val: label 2 of ") and "sample-00002" in message
    assert message.endswith("the model knows 2 classes (0 to 1)")
    plain = opened(make_shards(tmp_path / "plain", 4, labels=False))
    with pytest.raises(UserError, match=r"data\.val: .*no label"):
        require_classes(plain, "data.val", 3)


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


def test_a_classifier_that_scores_all_classes_alike_answers_the_first(images):
    predictions = evaluate_classifier(
        lambda pixels: torch.zeros(len(pixels), CLASSES),
        images,
        require_classes(images, "test", CLASSES),
        SIZE,
        1.0,
    )
    assert set(predictions.predicted) == {0} and predictions.in_top.all()  # of classes 0 to 2
    assert (predictions.predicted == predictions.labels).mean() == 8 / 22
