import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from mae.evaluation.confidence import wilson
from mae.evaluation.results import (
    Result,
    baseline,
    label_ranks,
    ranking_result,
    result_rows,
    table,
)

LABELS = np.array([0] * 6 + [1] * 2)


def result(encoder, wrong, feature="mean", splits=1, **budget):
    right = np.ones((splits, 8), bool)
    right[:, wrong] = False
    return Result(encoder, feature, right, budget, {"strengths": [1.0] * splits})


def test_rows_hold_accuracy_interval_and_balanced_accuracy():
    (row,) = result_rows([result("pretrained", [6])], LABELS, seed=0)
    assert row["accuracy"] == 7 / 8
    assert row["interval"] == list(wilson(7 / 8, 8))
    assert row["balanced_accuracy"] == 0.75
    assert row["deviation"] == 0 and row["accuracies"] == [7 / 8] and row["strengths"] == [1.0]


def test_splits_have_mean_and_deviation():
    several = result("pretrained", [], splits=2)
    several.right[1, :4] = False
    (row,) = result_rows([several], LABELS, seed=0)
    assert row["accuracy"] == 0.75
    assert row["deviation"] == pytest.approx(np.std([1, 0.5], ddof=1))


def test_pretrained_is_compared_at_equal_feature_and_budget():
    rows = result_rows(
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


def test_intervals_include_the_draw_of_labels():
    """Splits that differ widely on the very same images."""
    right = np.tile(np.arange(1000) < 600, (5, 1))
    for split, least in enumerate((300, 400, 500, 550, 250)):
        right[split, least:] = False
    several = Result("pretrained", "mean", right, {"per_class": 5}, {})
    other = Result(
        "untrained", "mean", np.tile(np.arange(1000) < 390, (5, 1)), {"per_class": 5}, {}
    )
    labels = np.arange(1000) % 2
    row, _ = result_rows([several, other], labels, seed=0)
    images_alone = wilson(row["accuracy"], 1000)
    assert row["interval"][0] < images_alone.low - 0.03
    assert row["interval"][1] > images_alone.high + 0.03
    assert row["deviation_of"] == "draws of the labels"
    above = row["above"]["untrained"]
    assert above["difference"] == pytest.approx(0.01)
    assert above["interval"][0] < -0.05 and above["interval"][1] > 0.07
    (everything,) = result_rows([several._replace(budget={})], labels, seed=0)
    assert everything["deviation_of"] == "splits that choose C"


def test_top5_needs_more_than_five_classes():
    ranks = np.array([0, 0, 4, 5, 7, 1, 0, 9])
    found = ranking_result("pretrained", "cls", ranks, 10, {"lr": 1.0})
    (row,) = result_rows([found], LABELS, seed=0)
    assert row["accuracy"] == 3 / 8 and row["top5_accuracy"] == 5 / 8 and row["lr"] == 1
    assert row["top5_interval"] == list(wilson(5 / 8, 8))
    assert "top-5" in table("attentive", {"results": [row]})
    assert "top5_accuracy" not in ranking_result("pretrained", "cls", ranks, 5, {}).more


def test_a_head_that_scores_all_classes_alike_is_right_by_chance():
    truth = np.arange(12) % 6
    ranks = label_ranks(torch.zeros(12, 6), truth).numpy()
    assert (ranks == 0).mean() == 1 / 6 and (ranks < 5).mean() == 5 / 6
    assert (label_ranks(torch.full((12, 6), torch.nan), truth) > 0).all()


def test_ranks_are_those_of_argmax_and_scikit_learn():
    scores = torch.randint(0, 4, (200, 8), generator=torch.Generator().manual_seed(0)).float()
    truth = np.arange(200) % 8
    ranks = label_ranks(scores, truth).numpy()
    assert np.array_equal(ranks == 0, scores.argmax(1).numpy() == truth)
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")  # of equal scores, the first class
    assert np.array_equal(ranks, (order == truth[:, None]).argmax(1))
    spread = scores + torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) / 2
    top5 = (label_ranks(spread, truth).numpy() < 5).mean()
    assert top5 == top_k_accuracy_score(truth, spread.numpy(), k=5, labels=range(8))


def test_the_commonest_class_stands_below_the_results():
    labels = np.array([0, 1, 1, 1])
    rows = result_rows([Result("pretrained", "cls", (labels == 1)[None], {}, {})], labels, 0)
    report = {"results": rows, **baseline(labels, ("good", "defect"))}
    lines = table("knn", report).splitlines()
    assert "balanced" in lines[0] and "per class" not in lines[0]
    assert lines[2].split()[:6] == ["always", "defect,", "the", "commonest", "none", "75.0%"]
    assert lines[2].endswith("50.0%") and len(lines[2]) == len(lines[0])
    assert lines[3] == (
        "note: right on all images of one class and on no other: pretrained cls, all (class 1)"
    )


def test_notes_follow_the_table():
    chosen = {"strengths": [1e-4, 100.0], "at_edge": [True, False], "converged": [True, False]}
    found = result("pretrained", [0], splits=2)._replace(more=chosen)
    lines = table(
        "probe", {"results": result_rows([found], LABELS, 0), "notes": ["why"]}
    ).splitlines()
    assert lines[2:] == [
        "note: why",
        "note: C at the edge of the candidates, one beyond may do better: pretrained mean, all "
        "(0.0001)",
        "note: L-BFGS was stopped before it converged: pretrained mean, all",
    ]
    lines = table("probe", {"results": result_rows([found] * 6, LABELS, 0)}).splitlines()
    assert lines[-1].endswith("mean, all; 2 more") and lines[-1].count("mean, all") == 4


def test_the_table_names_every_row_and_aligns():
    results = [
        result("pretrained", [0], splits=3, per_class=None),
        result("pretrained", [0], per_class=5),
        result("untrained", [0, 1], per_class=5),
        result("raw", [1], feature="pixels", percent=1),
    ]
    text = table("probe", {"results": result_rows(results, LABELS, seed=0)})
    lines = text.splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["probe", "labels", "top-1"]
    assert "above untrained" in lines[0] and "± splits that choose C" in lines[0]
    assert "± draws" not in lines[0]  # none of several draws
    assert lines[1].startswith("pretrained mean") and " all " in lines[1]
    assert "87.5%" in lines[2] and "5 per class" in lines[2] and "+12.5 (" in lines[2]
    assert "1 %" in lines[4]


@pytest.mark.parametrize("wrong", [[], [0], list(range(7)), list(range(8))])
@pytest.mark.parametrize("splits", [1, 3])
def test_intervals_of_rows_contain_their_numbers(wrong, splits):
    results = [result("pretrained", wrong, splits=splits), result("untrained", [1], splits=splits)]
    for row in result_rows(results, LABELS, seed=0):
        pairs = [(row["accuracy"], row["interval"])]
        pairs += [
            (found["difference"], found["interval"]) for found in row.get("above", {}).values()
        ]
        assert all(low <= estimate <= high for estimate, (low, high) in pairs)
    ranks = np.where(np.isin(np.arange(8), wrong), 9, 0)
    more = ranking_result("pretrained", "mean", ranks, 10, {}).more
    assert more["top5_interval"][0] <= more["top5_accuracy"] <= more["top5_interval"][1]
