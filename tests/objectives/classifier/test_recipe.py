from pathlib import Path

import pytest

from mae.base.errors import UserError
from mae.config.loading import load_config
from mae.objectives.classifier.declaration import finetune_of
from mae.objectives.classifier.recipe import finetune_settings, recipe_for
from mae.training.checkpoint.run import Run
from tests.export.models import config_of

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # github.com/IcarusWizard/MAE, train_classifier.py: nothing but AdamW
        ("vit_tiny_patch2_cifar10", ("token", 1.0, 0.0, 0.0, 0.0, 0.0, "", 0.0, 100, 128, 1e-3)),
        # github.com/wangsr126/MAE-Lite, finetuning_exp.py with the options of SMALL.md
        (
            "vit_small_patch16_224",
            ("avg", 0.75, 0.0, 0.0, 0.2, 0.0, "rand-m10-mstd0.5-inc1", 0.0, 300, 1024, 1e-3),
        ),
    ],
)
def test_recipes_that_published_figures_belong_to(name, published):
    given = ["data.train=a.tar", "init.from=runs/x"]
    config = finetune_settings(CONFIGS / f"{name}_finetune.yaml", given)
    ours = *finetune_of(config).model_dump(exclude={"num_classes"}).values(), config.train.epochs
    assert (*ours, config.train.batch_size, config.optim.blr) == published
    assert config.optim.warmup_epochs == 5 and config.optim.betas == (0.9, 0.999)
    pretraining = load_config(CONFIGS / f"{name}.yaml")
    for key in ("mean", "std", "crop_pct", "img_size", "in_chans"):
        assert getattr(config.data, key) == getattr(pretraining.data, key)
    for key in ("encoder", "encoder_kwargs", "patch_size"):
        assert getattr(config.model, key) == getattr(pretraining.model, key)


@pytest.mark.parametrize(("recorded", "taken"), [(None, None), (0.875, None), (0.9, 0.9)])
def test_crop_follows_the_size_of_the_classifiers_images(tmp_path, recorded, taken):
    """0.875 was the default at all sizes, which earlier versions recorded in every run."""
    config = config_of()
    data = config.data.model_copy(update={"crop_pct": recorded})
    Run(tmp_path / "run").open(config.model_copy(update={"data": data}))
    assert finetune_settings(tmp_path / "run", []).data.crop_pct == taken
    assert finetune_settings(tmp_path / "run", ["data.crop_pct=0.5"]).data.crop_pct == 0.5


def test_a_recipe_for_a_run_takes_its_model_and_data(tmp_path):
    run = tmp_path / "run"
    pretraining = load_config(CONFIGS / "vit_small_patch16_224.yaml", ["data.train=a.tar"])
    Run(run).open(pretraining)
    config = finetune_settings(run, ["vit_small", "train.epochs=7"])
    assert (config.recipe, config.train.epochs) == ("vit_small_patch16_224_finetune", 7)
    assert (finetune_of(config).layer_decay, finetune_of(config).mixup) == (0.75, 0.2)
    assert (config.init.from_, config.data.train) == (str(run), ("a.tar",))
    assert config.output == f"{run}-finetuned"
    with pytest.raises(UserError, match=r"model.encoder: vit_tiny_patch16_224, but .*vit_small"):
        finetune_settings(run, ["vit_tiny_patch2_cifar10_finetune"])
    with pytest.raises(UserError, match="nowhere: no run folder, which vit_small needs before it"):
        finetune_settings(tmp_path / "nowhere", ["vit_small"])


@pytest.mark.parametrize(
    ("encoder", "sizes", "decay"),
    [
        ("vit_base_patch16_224", {}, 0.65),
        ("vit_large_patch16_224", {}, 0.75),
        ("vit_base_patch16_224", {"depth": 4}, 0.65),
        ("hiera_base_224", {}, 0.799),
        ("hiera_large_224", {}, 0.863),
        ("vit_giant_patch14_dinov2", {}, 0.793),
        ("vit_base_patch16_224", {"depth": 25}, 0.806),
    ],
)
def test_the_lowest_of_more_blocks_learns_as_slowly(encoder, sizes, decay):
    assert recipe_for(encoder, sizes)["finetune"]["layer_decay"] == decay
