from pathlib import Path

import numpy as np
import pytest

from mae.api.settings import as_call, recipe_settings, setting_words
from mae.base.errors import UserError
from mae.config.loading import load_config
from tests.runs import write_config

COMMAND = "mae pretrain"


@pytest.fixture
def tiny(tmp_path):
    return write_config(tmp_path, "a.tar")


def test_settings_are_those_of_a_command_line(tiny):
    words = setting_words(
        ["b.tar", Path("c.tar")],
        "v.tar",
        Path("runs/2026-01-01"),
        {
            "optim": {"lr": np.float32(0.5), "betas": (0.5, np.float64(0.25))},
            "train.epochs": 7,
            "model": {"encoder_kwargs": {"embed_dim": 64, "depth": 1, "num_heads": 2}},
            "init": {"from": Path("x: #y.pth")},
        },
    )
    config = recipe_settings(tiny, words)
    typed = [
        "data.train=[b.tar, c.tar]",
        "data.val=v.tar",
        "output=runs/2026-01-01",
        *("optim.lr=0.5", "optim.betas=[0.5, 0.25]", "train.epochs=7"),
        "model.encoder_kwargs={embed_dim: 64, depth: 1, num_heads: 2}",
        "init.from='x: #y.pth'",
    ]
    assert config == load_config(tiny, typed, command=COMMAND)
    assert config.init.from_ == "x: #y.pth" and config.output == "runs/2026-01-01"


@pytest.mark.parametrize("text", ["1e-3", "null", "[a]", "{1..3}.tar", "yes", '"', "ä: 😀 #1", ""])
def test_texts_stay_texts(tiny, text):
    config = recipe_settings(tiny, setting_words(None, None, text, {"log": {"project": text}}))
    assert (config.output, config.log.project) == (text, text)


def test_data_may_be_a_section(tiny):
    words = setting_words({"train": "b.tar", "workers": 3}, None, None, {})
    config = recipe_settings(tiny, words)
    assert config.data.train == ("b.tar",) and config.data.workers == 3
    assert config.data.img_size == (16, 16)


@pytest.mark.parametrize("kind", ["dict", "config"])
def test_a_recipe_may_be_its_content(tiny, kind):
    whole = load_config(tiny)
    recipe = whole if kind == "config" else {"output": "there", "train": {"epochs": 50, "seed": 1}}
    config = recipe_settings(recipe, setting_words(None, None, None, {"train.seed": 5}))
    assert config.train.seed == 5
    assert config.train.epochs == (whole.train.epochs if kind == "config" else 50)
    assert config.output == (whole.output if kind == "config" else "there")


def test_errors_name_recipe_and_settings():
    words = setting_words(None, None, None, {"train": {"epoch": 5}, "epochs": 5, "optim": 3})
    recipe = {"model": {"mask_raito": 0.5}}
    with pytest.raises(UserError) as raised:
        recipe_settings(recipe, words)
    assert str(as_call(raised.value)).split("\n") == [
        "recipe: model.mask_raito: unknown key, did you mean mask_ratio?",
        "settings: optim: 3 should be settings, each on a line below it",
        "settings: train.epoch: unknown key, did you mean epochs?",
        "settings: epochs: unknown key, did you mean train.epochs?",
    ]


@pytest.mark.parametrize(
    ("data", "settings", "key"),
    [
        ("a.tar", {"data": {"train": "b.tar"}}, "data.train"),
        (None, {"train": {"epochs": 1}, "train.epochs": 2}, "train.epochs"),
        (None, {"output": "x"}, "output"),
    ],
)
def test_a_setting_given_twice_is_refused(data, settings, key):
    with pytest.raises(UserError, match=f"^settings: {key} is given twice$"):
        setting_words(data, None, "runs/x", settings)


def test_an_objective_of_another_command_is_refused(tiny):
    with pytest.raises(UserError, match=r"objective: classifier: mae finetune trains it"):
        recipe_settings(tiny, ['objective="classifier"'])
    classifier = recipe_settings(tiny, ['objective="classifier"', "model={}"], is_whole=False)
    assert classifier.objective == "classifier"


def test_recipes_have_names():
    named = recipe_settings("vit_tiny_p", ["train.epochs=3", "optim.warmup_epochs=1"])
    assert named.recipe == "vit_tiny_patch2_cifar10" and named.train.epochs == 3
    assert recipe_settings("vit_tiny_p", [], is_whole=False).model == named.model
    with pytest.raises(UserError, match="no recipe: did you mean vit_tiny"):
        recipe_settings("vit_tinny", [])
    with pytest.raises(UserError, match=r"^data\.train: give the images"):
        recipe_settings("auto", [])
