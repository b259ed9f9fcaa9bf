"""The closing line of evaluations of frozen features."""

import pytest

from mae.evaluation.verdict import verdict


def report(*rows, images=200):
    return {"results": [{"feature": "mean", "above": row} for row in rows], "test_images": images}


def above(difference, low, high):
    return {"difference": difference, "interval": [low, high]}


BETTER, OPEN, WORSE = above(0.1, 0.05, 0.2), above(-0.028, -0.132, 0.075), above(-0.1, -0.2, -0.01)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [{"raw": BETTER, "untrained": BETTER}],
            "better than raw pixels and the untrained encoder",
        ),
        ([{"raw": OPEN}], "not shown to beat raw pixels (mean, all: -2.8 (-13.2 to +7.5) points)."),
        ([{"raw": WORSE}], "worse than raw pixels (mean, all: -10.0 (-20.0 to -1.0) points)."),
        ([{"raw": OPEN}, {"raw": BETTER}], "better than raw pixels (in 1 of 2 rows)"),
        (
            [{"raw": OPEN, "untrained": BETTER}],
            "points); better than the untrained encoder. Train longer",
        ),
    ],
)
def test_each_baseline_is_named_as_beaten_or_not(rows, line):
    assert line in verdict(report(*rows))


def test_few_test_images_are_named_and_no_baseline_is_no_verdict():
    assert "200 test images are few" in verdict(report({"raw": OPEN}))
    assert "few" not in verdict(report({"raw": OPEN}, images=5000))
    assert verdict({"results": [{"feature": "mean"}], "test_images": 10}) == ""
