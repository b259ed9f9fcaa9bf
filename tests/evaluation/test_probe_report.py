import numpy as np
import pytest

from mae.base.files import new_file
from mae.evaluation.features_file import FeatureWriter, read_features
from mae.evaluation.knn import knn_report
from mae.evaluation.probe_report import distinct_percents, fewshot_report
from mae.evaluation.results import Subject
from tests.evaluation.test_knn import clouds


@pytest.fixture
def subjects(tmp_path):
    """Features of two encoders, the second noisier."""

    def saved(name, n, noise, seed):
        vectors, labels = clouds(n, noise=noise, seed=seed)
        path = tmp_path / f"{name}.safetensors"
        with new_file(path) as part, part.open("w+b") as file:
            writer = FeatureWriter(file, n, {"mean": (8,)}, {"data": name})
            writer.append({"label": labels, "sample": np.arange(n), "mean": vectors})
            writer.finish({"name": b"", "dropped": b""})
        return read_features(path)

    return [
        Subject(name, saved(f"{name}-a", 200, noise, 0), saved(f"{name}-b", 150, noise, 1))
        for name, noise in (("pretrained", 1.0), ("untrained", 4.0))
    ]


def test_more_labels_help_and_so_do_better_features(subjects):
    report = fewshot_report(subjects, shots=[1], percents=[5, 20], splits=2)
    found: dict[tuple, float] = {
        (r["encoder"], r.get("per_class"), r.get("percent")): r["accuracy"]
        for r in report["results"]
    }
    assert len(found) == 6
    for encoder in ("pretrained", "untrained"):
        assert found[encoder, 1, None] < found[encoder, None, 5] < found[encoder, None, 20]
    assert all(
        found["pretrained", *budget] > found["untrained", *budget]
        for budget in [(1, None), (None, 5), (None, 20)]
    )


def test_report_records_the_protocol(subjects):
    report = fewshot_report(subjects, shots=[1], splits=2, seed=5)
    assert report["seed"] == 5 and report["splits"] == 2
    assert report["train"] == {"data": "pretrained-a", "skipped": []}
    assert (report["train_images"], report["test_images"], report["classes"]) == (200, 150, 5)
    assert "one per class not at all" in report["selection"]
    assert "splits and test images together" in report["interval_rule"]
    assert report["versions"]["torch"] and report["date"]
    first = report["results"][0]
    assert first["strengths"] == [0.01, 0.01] and first["at_edge"] == [False, False]
    assert first["converged"] == [True, True] and first["unfinished"] == [0, 0]
    assert first["above"]["untrained"]["interval"][0] > 0
    assert report["results"] == fewshot_report(subjects, shots=[1], splits=2, seed=5)["results"]


def test_a_percentage_that_is_none_of_these_labels_is_named(subjects):
    """40 images a class: 1 % is one of each, which is 2.5 %."""
    report = fewshot_report(subjects[:1], shots=[2], percents=[1, 10], splits=1)
    assert [row["labels"] for row in report["results"]] == [10, 5, 20]
    assert report["notes"] == [
        "1 % is 5 of 200 labels here, 2.5 %: whole labels of each class, at least one"
    ]
    assert fewshot_report(subjects[:1], percents=[5, 10], splits=1)["notes"] == []


def test_fewer_images_than_neighbours_are_named(subjects):
    report = knn_report(subjects[:1], k=500)
    assert report["k"] == 200
    assert report["notes"] == ["k = 500, but --train has 200 images: all of them vote"]
    assert report["results"] == knn_report(subjects[:1], k=200)["results"]
    assert knn_report(subjects[:1], k=200)["notes"] == []


def test_a_percentage_that_draws_the_labels_of_a_row_by_number_is_left_out():
    labels = np.repeat([0, 1], 70)
    kept, notes = distinct_percents(labels, [1, 5], [1, 10])
    assert kept == [10] and notes == ["1 % of the labels is 1 per class here: see there"]
    assert distinct_percents(np.repeat([0, 1], [70, 700]), [1], [1]) == ([1], [])
