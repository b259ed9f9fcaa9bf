"""Fine-tuning recipe by the number of labelled images."""

import pytest

from mae.networks.vit_sizes import vit_size
from mae.objectives.classifier.few_labels import CHOSEN, MANY, adapted
from mae.objectives.classifier.recipe import recipe_for
from mae.objectives.shared_sections import VitModel

RECIPE = recipe_for("vit_base_patch16_224")


def chosen(images, **given):
    return {one.key: one.value for one in adapted(RECIPE, images, given)}


@pytest.mark.parametrize("images", [MANY, 1_281_167, 10**9])
def test_the_published_recipe_stays_with_many_labels(images):
    assert adapted(RECIPE, images, {}) == []


@pytest.mark.parametrize("images", [2, 20, 100, 1000, 3068, 10_000, 50_000, MANY - 1])
def test_few_labels_get_small_batches_and_enough_steps(images):
    found = adapted(RECIPE, images, {})
    assert {one.key for one in found} <= set(CHOSEN) and all(one.reason for one in found)
    values = {one.key: one.value for one in found}
    batch = values["train.batch_size"]
    epochs = values.get("train.epochs", RECIPE["train"]["epochs"])
    assert batch <= max(1, images // 2) and epochs * images / batch >= 999
    assert values.get("optim.warmup_epochs", 5) <= epochs / 10
    assert 0 < values["optim.lr"] < 2e-3


def test_regularisation_is_for_runs_that_are_long_enough():
    assert chosen(1000)["finetune.mixup"] == 0
    assert "finetune.mixup" not in chosen(90_000)
    assert "finetune.rand_augment" not in chosen(1000)
    assert chosen(1000, **{"train.epochs": 10})["finetune.rand_augment"] == ""


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({}, (768, 12)),
        ({"encoder": "vit_small_patch16_224"}, (384, 12)),
        ({"encoder": "vit_large_patch16_224"}, (1024, 24)),
        ({"encoder_kwargs": {"embed_dim": 96, "depth": 4}}, (96, 4)),
    ],
)
def test_rates_go_with_the_encoders_size(model, size):
    made = VitModel(**model)
    _, width, depth = vit_size(made.encoder, made.encoder_kwargs)
    assert (width, depth) == size
    found = {one.key: one.value for one in adapted(RECIPE, 2000, {}, width, depth)}
    assert found["optim.lr"] == pytest.approx(2.5e-4 * max(1, 768 / width), rel=0.02)
    lowest = found.get("finetune.layer_decay", 0.65) ** (depth + 1)
    assert lowest == pytest.approx(0.65**13, rel=0.1) or depth > 12


def test_others_follow_what_is_given():
    found = chosen(1000, **{"train.batch_size": 128, "train.epochs": 20, "finetune.mixup": 0.8})
    assert not {"train.batch_size", "train.epochs", "finetune.mixup"} & found.keys()
    assert found["optim.lr"] == pytest.approx(2e-3 * (128 / 1024) ** 0.5, rel=0.02)
    assert found["optim.warmup_epochs"] == 1.0
    assert "optim.lr" not in chosen(1000, **{"optim.blr": 1e-3})


def test_short_runs_are_evaluated_about_ten_times():
    assert chosen(1000)["log.health_every"] == 10
    assert chosen(1000, **{"train.epochs": 45})["log.health_every"] == 5
    assert "log.health_every" not in chosen(1000, **{"train.epochs": 8})
    assert "log.health_every" not in chosen(1000, **{"log.health_every": 1})
