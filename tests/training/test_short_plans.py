"""Plans that are too short are named with settings to type, usual ones are not."""

from pathlib import Path

import pytest

from mae.config.loading import load_config
from mae.config.sections import AutoConfig
from mae.training.plan import make_plan
from mae.training.short_plans import Length, about_length, longer

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = CONFIGS / "vit_small_patch16_224.yaml"
IMAGES = {"demo_digits": 1297, "vit_tiny_patch2_cifar10": 50_000}
"""of recipes for a certain data set; the others are for ImageNet"""


def findings(recipe, images, *settings):
    config = load_config(recipe, ["data.train=a.tar", *settings])
    plan = make_plan(config, images, 1, 0)
    return config, list(about_length(config, Length(images, plan.steps, plan.lr)))


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_silent_on_their_data(recipe):
    if "finetune" not in recipe.stem:
        assert not findings(recipe, IMAGES.get(recipe.stem, 1_281_167))[1]


@pytest.mark.parametrize(
    ("images", "settings", "words"),
    [
        (2556, [], "999 optimizer steps are few (a batch is 40% of the images): 4,000 or more"),
        (
            1_281_167,
            ["optim.warmup_epochs=200", "train.epochs=400"],
            "The warm-up takes 50% of the run",
        ),
        (
            5_000_000,
            ["train.epochs=0.9", "optim.warmup_epochs=0"],
            "train.epochs=0.9 leaves 10% of the images unseen",
        ),
        (60, ["train.batch_size=4"], "60 training images are few to learn from"),
    ],
)
def test_each_shortcoming_is_named(images, settings, words):
    found = findings(SMALL, images, *settings)[1]
    assert len(found) == 1 and found[0].text.startswith(words), found
    assert found[0].level == "watch" and found[0].reason.endswith(".")


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        (2556, []),
        (1100, ["train.epochs=30", "optim.warmup_epochs=3"]),
        (40_000, ["train.epochs=21", "optim.warmup_epochs=1"]),
    ],
)
def test_what_is_proposed_can_be_typed_and_is_long_enough(images, settings):
    config, _ = findings(SMALL, images, *settings)
    plan = make_plan(config, images, 1, 0)
    typed = longer(config, Length(images, plan.steps, plan.lr), 4000).partition(":")[0].split()
    config, found = findings(SMALL, images, *settings, *typed)
    assert not found
    assert make_plan(config, images, 1, 0).steps >= 4000


def test_the_smaller_batch_costs_nothing_where_it_is_enough():
    config, _ = findings(SMALL, 2556)
    words = longer(config, Length(2556, 999, 6e-4), 4000)
    assert words == "train.batch_size=128 optim.lr=0.00021: 7,988 steps over as many images"


def test_a_plan_that_auto_made_is_not_criticised_by_its_own_epochs():
    config, _ = findings(SMALL, 2556)
    auto = AutoConfig(hours=0.08, chosen={"train.epochs": "0.08 h of training, by estimate"})
    length = Length(2556, 1000, 1e-3)
    (found,) = about_length(config.model_copy(update={"auto": auto}), length)
    expected = "They are what auto.hours=0.08 is estimated to allow here: auto.hours=0.32 allows"
    assert found.reason == f"{expected} 4,000."
    given = AutoConfig(hours=0.08, chosen={"train.epochs": "given"})
    (found,) = about_length(config.model_copy(update={"auto": given}), length)
    assert found.reason.startswith("Try train.batch_size=")
