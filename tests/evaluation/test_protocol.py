import numpy as np
import pytest

from mae.evaluation.confidence import wilson
from mae.evaluation.protocol import Result, rows_of, table

LABELS = np.array([0] * 6 + [1] * 2)


def result(encoder, wrong, feature="mean", splits=1, **budget):
    right = np.ones((splits, 8), bool)
    right[:, wrong] = False
    return Result(encoder, feature, right, budget, {"strengths": [1.0] * splits})


def test_rows_hold_accuracy_interval_and_the_classes_alike():
    (row,) = rows_of([result("pretrained", [6])], LABELS, seed=0)
    assert row["accuracy"] == 7 / 8
    assert row["interval"] == list(wilson(7 / 8, 8))
    assert row["balanced_accuracy"] == 0.75
    assert row["deviation"] == 0 and row["accuracies"] == [7 / 8] and row["strengths"] == [1.0]


def test_splits_have_mean_and_deviation():
    several = result("pretrained", [], splits=2)
    several.right[1, :4] = False
    (row,) = rows_of([several], LABELS, seed=0)
    assert row["accuracy"] == 0.75
    assert row["deviation"] == pytest.approx(np.std([1, 0.5], ddof=1))


def test_the_pretrained_is_compared_with_its_own_feature_and_budget():
    rows = rows_of(
        [
            result("pretrained", [0], per_class=None),
            result("pretrained", [0, 1], per_class=5),
            result("untrained", [0, 1, 2], per_class=None),
            result("untrained", [0, 1, 2, 3, 4], per_class=5),
            result("untrained", [], feature="cls", per_class=None),
            result("raw", [0, 1, 2, 3], feature="pixels", per_class=None),
        ],
        LABELS,
        seed=0,
    )
    first, second = rows[0]["above"], rows[1]["above"]
    assert {name: found["difference"] for name, found in first.items()} == {
        "untrained": 2 / 8,
        "raw": 3 / 8,
    }
    assert {name: found["difference"] for name, found in second.items()} == {"untrained": 3 / 8}
    assert all("above" not in row for row in rows[2:])


def test_the_table_names_every_row_and_aligns():
    results = [
        result("pretrained", [0], splits=3, per_class=None),
        result("pretrained", [0], per_class=5),
        result("untrained", [0, 1], per_class=5),
        result("raw", [1], feature="pixels", percent=1),
    ]
    text = table("probe", {"results": rows_of(results, LABELS, seed=0)})
    lines = text.splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["probe", "labels", "top-1"]
    assert "above untrained" in lines[0] and "± splits" in lines[0]
    assert lines[1].startswith("pretrained mean") and " all " in lines[1]
    assert "87.5%" in lines[2] and "5 per class" in lines[2] and "+12.5 (" in lines[2]
    assert "1 %" in lines[4]
