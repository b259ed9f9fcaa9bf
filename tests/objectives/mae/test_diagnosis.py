import math

import pytest

from mae.evaluation.diagnosis import diagnose_run
from mae.evaluation.run_record import RunRecord
from mae.objectives.mae.declaration import DECLARATION
from mae.objectives.mae.diagnosis import diagnose

HEALTHY = {
    "step": 900,
    "epoch": 90.0,
    "images": 2000,
    "width": 192,
    "r2": 0.62,
    "r2_interpolation": 0.5,
    "r2_patch_mean": 0.0,
    "rankme": 90.0,
    "spread": 0.6,
    "dead": 0.0,
    "cosine": 0.5,
    "knn": 0.6,
    "probe": 0.7,
    "chance": 0.1,
}


def rows(count=100, fall=0.002, **last):
    """Healthy run with ten warm-up epochs; `last` replaces values of its last tenth."""
    found = [
        {
            "step": step * 10,
            "epoch": float(step),
            "loss": 0.5 * (1 - fall) ** step + 1e-4 * (step % 3),
            "r2": 0.6,
            "images_per_second": 1000.0,
            "data_wait": 0.02,
            "grad_norm": 1.0,
            "bad": 0,
            "skipped": 0,
        }
        for step in range(1, count + 1)
    ]
    return [*found[:-10], *({**row, **last} for row in found[-10:])]


def findings(metrics=(), health=(), **settings):
    run = RunRecord(metrics, health, settings)
    return diagnose_run(run, diagnose(run))


WARMUP = {"optim.warmup_epochs": 10.0}


def levels_of(metrics=(), health=()):
    return {finding.text: finding.level for finding in findings(metrics, health, **WARMUP)}


def test_a_healthy_run_has_nothing_to_watch():
    assert levels_of(rows(), [HEALTHY | {"knn": 0.3}, HEALTHY]) == {
        "Loss still falling: 1.8 % over the last tenth": "good",
        "2% of the time is spent waiting for data": "good",
        "Features have not collapsed: RankMe 90 of 192": "note",
        "Held-out R² 0.62, above interpolation (0.50) and the patch mean (0.00)": "good",
        "k-NN accuracy 60% (chance 10%), 30% at first": "good",
    }


@pytest.mark.parametrize(("epochs", "rate", "is_told"), [(99, 0.9, True), (99, 0.1, False)])
def test_a_run_that_stopped_at_a_high_learning_rate_is_told_so(epochs, rate, is_told):
    metrics = [{"step": n, "epoch": 0.5 * n, "loss": 1.0, "lr": 1.0} for n in range(1, 100)]
    metrics.append({"step": 100, "epoch": 50.0, "loss": 1.0, "lr": rate})
    told = [f for f in findings(metrics, **{"train.epochs": epochs}) if "Epoch 50 of" in f.text]
    assert bool(told) == is_told and all("90% of its peak" in one.text for one in told)
    assert not [f for f in findings(metrics, **{"train.epochs": 50}) if "Epoch 50" in f.text]


def test_an_empty_run_has_no_findings():
    assert findings() == []
    assert list(levels_of([{}], [{}])) == ["Too early to evaluate the loss"]


@pytest.mark.parametrize(
    ("metrics", "health", "text", "level"),
    [
        (rows(loss=math.nan), [], "The loss is not a number", "bad"),
        (rows(12), [], "Too early to evaluate the loss", "watch"),
        (rows(fall=0), [], "Loss steady over the last tenth", "note"),
        (rows(fall=-0.005), [], "Loss rising: 4.6 % over the last tenth", "watch"),
        (rows(fall=-0.03), [], "Loss rising: 30.5 % over the last tenth", "bad"),
        (rows(skipped=3), [], "3 of 1,000 steps skipped", "watch"),
        (rows(skipped=30), [], "30 of 1,000 steps skipped", "bad"),
        (rows(bad=1), [], "1 unreadable image replaced", "watch"),
        (rows(grad_norm=9.0), [], "Gradients have grown to 9 times the run's median", "watch"),
        (rows(data_wait=0.2), [], "20% of the time is spent waiting for data", "watch"),
        (rows(data_wait=0.7), [], "70% of the time is spent waiting for data", "bad"),
        (
            rows(images_per_second=500.0),
            [],
            "Slower than before: 500 images/s, the run's median is 1,000",
            "watch",
        ),
        (
            rows(r2=-0.1),
            [],
            "R² -0.10: the model does no better than predicting the mean",
            "bad",
        ),
        ([], [HEALTHY | {"rankme": 3.1}], "Features collapse: RankMe 3 of 192", "bad"),
        ([], [HEALTHY | {"spread": 0.001}], "Features collapse: RankMe 90 of 192", "bad"),
        ([], [HEALTHY | {"rankme": 7.0}], "Features are narrow: RankMe 7 of 192", "watch"),
        ([], [HEALTHY | {"rankme": math.nan}], "Features are not numbers", "bad"),
        (
            [],
            [HEALTHY, HEALTHY | {"rankme": 40.0}],
            "Features are losing dimensions: RankMe 40 of 192, 90 at best",
            "watch",
        ),
        ([], [HEALTHY | {"dead": 0.2}], "20% of the feature dimensions are dead", "watch"),
        ([], [HEALTHY | {"dead": 0.6}], "60% of the feature dimensions are dead", "bad"),
        (
            [],
            [HEALTHY | {"r2": -0.2}],
            "R² -0.20 below the patch mean (0.00): the model has not learned structure yet",
            "bad",
        ),
        (
            [],
            [HEALTHY | {"r2_patch_mean": 0.72}],
            "R² 0.62 below the patch mean (0.72)",
            "watch",
        ),
        (
            [],
            [HEALTHY | {"r2": -0.01, "r2_interpolation": -0.2, "r2_patch_mean": -0.1}],
            "Held-out R² -0.01: the model does no better than predicting the mean",
            "bad",
        ),
        (
            [],
            [HEALTHY | {"r2_interpolation": None, "r2_patch_mean": None}],
            "Held-out R² 0.62",
            "note",
        ),
        ([], [HEALTHY | {"r2": 0.45}], "R² 0.45 below smooth interpolation (0.50)", "watch"),
        (
            rows(),
            [HEALTHY | {"r2": 0.45, "r2_interpolation": 0.1}],
            "R² is 0.15 lower on held-out images than in training",
            "watch",
        ),
        ([], [HEALTHY | {"knn": 0.11}], "k-NN accuracy 11% is chance (10%)", "watch"),
        (
            [],
            [HEALTHY, HEALTHY, HEALTHY | {"knn": 0.4}],
            "k-NN accuracy 40%, down from 60%",
            "watch",
        ),
    ],
)
def test_problems_are_found(metrics, health, text, level):
    assert levels_of(metrics, health).get(text) == level


def test_a_fresh_encoder_does_not_count_as_collapsed():
    early = HEALTHY | {"epoch": 2.0, "rankme": 3.0, "r2": -1.0, "knn": 0.3}
    assert not {"bad", "watch"} & set(levels_of([], [early]).values())


def test_findings_are_sorted_by_level_and_have_reasons():
    found = findings(rows(loss=math.nan, bad=1), [HEALTHY], **WARMUP)
    assert [finding.level for finding in found] == ["bad", "watch", "note", "note", "good", "good"]
    assert all(len(finding.reason) > 20 for finding in found)
    knn = next(finding for finding in found if "k-NN" in finding.text)
    assert "quick indicator" in knn.reason


TARGETS = {"model.mask_ratio": 0.25, "model.norm_pix_loss": True, "train.epochs": 100.0}


def warnings_of(last, epoch=90.0, **settings):
    row = HEALTHY | {"epoch": epoch} | last
    found = list(DECLARATION.warn(RunRecord([], [row], TARGETS | WARMUP | settings)))
    assert {one.text for one in found} <= {one.text for one in findings([], [row], **TARGETS)}
    return [(one.text, one.reason) for one in found]


def test_patches_that_are_guessed_from_their_neighbours_are_named():
    low = {"r2": 0.58}
    ((text, reason),) = warnings_of(low)
    assert text == "Only 16% less error than interpolation from the visible patches"
    assert "raise model.mask_ratio" in reason
    ((_, reason),) = warnings_of(low, **{"model.mask_ratio": 0.75})
    assert "train for longer" in reason
    ((text, _),) = warnings_of({"r2": 0.4})
    assert text == "R² 0.40 below smooth interpolation (0.50)"
    assert warnings_of({"r2": 0.62}) == []
    assert warnings_of(low, epoch=15.0) == []  # too early
    assert warnings_of(low, epoch=54.0) == [] and warnings_of(low, epoch=56.0)


@pytest.mark.parametrize(
    ("settings", "are_larger_proposed"),
    [
        ({}, True),  # unknown
        ({"data.img_size": [224, 224], "model.patch_size": 16}, True),
        ({"data.img_size": [64, 64], "model.patch_size": 8}, False),
        ({"model.encoder": "vit_base_patch16_224"}, True),
        ({"model.encoder": "vit_base_patch32_224"}, False),
        ({"auto.chosen.model.patch_size": "196 patches of an image"}, False),
        ({"auto.chosen.model.patch_size": "given"}, True),
    ],
)
def test_larger_patches_are_proposed_where_there_are_many(settings, are_larger_proposed):
    ((_, reason),) = warnings_of({"r2": 0.4}, **{"model.mask_ratio": 0.75}, **settings)
    assert "train for longer" in reason
    assert ("model.patch_size" in reason) == are_larger_proposed


def test_flat_patches_under_normalised_targets_are_named():
    flat = {"flat_patches": 0.6}
    ((text, _),) = warnings_of(flat)
    assert text == "60% of the patches are flat: they vary by less than one level"
    assert warnings_of(flat, **{"model.norm_pix_loss": False}) == []
    assert warnings_of({"flat_patches": 0.1}) == []


def test_r2_of_normalised_patches_is_said_not_to_compare():
    def reason(normalised):
        settings = WARMUP | {"model.norm_pix_loss": normalised}
        found = findings(rows(), [HEALTHY], **settings)
        return next(one.reason for one in found if one.text.startswith("Held-out R²"))

    assert "values far below those of plain pixels are usual" in reason(True)
    assert "plain pixels" not in reason(False)
