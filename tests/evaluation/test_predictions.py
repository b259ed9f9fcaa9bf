"""Evaluation of a classifier, against scikit-learn and plain NumPy."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from mae.base.divided_work import divided_work
from mae.base.errors import RunFailed, StorageError, UserError
from mae.base.portion import Portion
from mae.data.images import Images
from mae.data.indexing import build_manifest
from mae.data.views import CentredViews
from mae.evaluation import predictions as module
from mae.evaluation.classification import class_report, class_table, confusion, summary
from mae.evaluation.confidence import wilson
from mae.evaluation.predictions import (
    ClassifiedImages,
    Predictions,
    do_predictions,
    evaluate_classifier,
    require_classes,
)
from tests.evaluation.test_features import spoil

SIZE = (8, 8)
CLASSES = 7


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)


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


def subject(images: Images, model=logits) -> ClassifiedImages:
    return ClassifiedImages(model, images, require_classes(images, "test", 3), SIZE, 1.0)


def of(images: Images, **settings) -> Predictions:
    return evaluate_classifier(subject(images), **settings)


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
    assert (report["images"], report["bad"]) == (17, 5) and len(report["skipped"]) == 5
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
    for rank in (0, 1):
        sizes = {"process_index": rank, "num_processes": 2, "gather": catch(parts)}
        with pytest.raises(Sent):
            evaluate_classifier(subject(images, model), **sizes)
    for rank in (0, 1):
        sizes = {"process_index": rank, "num_processes": 2, "gather": lambda own: list(parts)}
        with pytest.raises(error):
            of(images, **sizes)


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


def test_a_classifier_that_scores_all_classes_alike_answers_the_first(images):
    predictions = evaluate_classifier(
        subject(images, lambda pixels: torch.zeros(len(pixels), CLASSES))
    )
    assert set(predictions.predicted) == {0} and predictions.in_top.all()  # of classes 0 to 2
    assert (predictions.predicted == predictions.labels).mean() == 8 / 22


def test_tasks_give_the_predictions_of_one_process(images, small_batches, make_shards, tmp_path):
    """Bad images included, which are too many only when all are counted."""
    pattern = make_shards(tmp_path / "spoilt", 22)
    spoil(tmp_path / "spoilt", "sample-00005", "sample-00018")
    bad = opened(pattern)

    def run(portion, max_bad=2):
        with divided_work(tmp_path / "out", "plan", portion, lambda text: None) as work:
            join = do_predictions(
                work, "x", subject(bad), lambda done, total: None, max_bad=max_bad
            )
            return join() if portion.is_join else None

    for number in (1, 0):
        run(Portion(number, 2, is_task=True), max_bad=1)
    with pytest.raises(UserError, match=r"2 bad images so far, more than data\.max_bad = 1"):
        run(Portion(is_join=True), max_bad=1)
    joined = run(Portion(is_join=True))
    assert joined is not None and same(joined, of(bad))
