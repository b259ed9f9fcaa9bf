"""Recipes of fine-tuning by encoder size, and the settings that it takes from a pretraining run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.base.errors import UserError
from mae.base.files import run_folder
from mae.config.choices import Choice, nested
from mae.config.loading import (
    check_objective,
    given_settings,
    load_config,
    recorded_config,
)
from mae.config.recipes import find_recipe
from mae.config.sections import Config
from mae.config.types import flatten
from mae.config.yaml_file import read_yaml
from mae.networks.vit_sizes import vit_size
from mae.objectives.registry import declaration
from mae.objectives.shared_sections import VitModel

NAME = "classifier"

RECIPES: dict[str, dict[str, Any]] = {
    "base": {"blr": 5e-4, "epochs": 100, "layer_decay": 0.65, "blocks": 12, "drop_path": 0.1},
    "large": {"blr": 1e-3, "epochs": 50, "layer_decay": 0.75, "blocks": 24, "drop_path": 0.2},
    "huge": {"blr": 1e-3, "epochs": 50, "layer_decay": 0.75, "blocks": 32, "drop_path": 0.3},
}
"""size → recipe of He et al. 2021, table 9; where the released code differs, its values, which
reproduce the results.  Encoders that are neither large nor huge use that of "base"."""

SCALE = (0.08, 1.0)
"""area of the random crops, as in timm and the released code: a wider range than in pretraining"""

TAKEN_OVER = {
    "data": (
        *("train", "val", "val_share", "workers", "order", "window", "lanes", "max_bad"),
        *("img_size", "in_chans", "bits", "mean", "std"),
        *("crop_pct", "flip"),
    ),
    "model": ("encoder", "encoder_kwargs", "patch_size"),
    "train": ("precision", "compile", "seed"),
    "log": ("trackers", "project"),
}
"""settings that are copied from the pretraining run, by section"""

FORMER_CROP_PCT = 0.875
"""default of data.crop_pct in earlier versions, which their runs recorded"""

RAND_AUGMENT = "finetune.rand_augment"
NONE = "none"
"""value of init.from for training from scratch"""

COMMAND = "mae finetune"
"""command that trains classifiers"""


def finetune_settings(
    source: str | Path, words: Sequence[str], choices: Sequence[Choice] = ()
) -> Config:
    """Settings of `mae finetune SOURCE [RECIPE] [section.key=value …]`; `words` follow `source`.

    SOURCE is a pretraining run, one of its checkpoints, or a recipe: a name, or a YAML file.
    RECIPE is one for a run: it replaces the run's settings, but not its model.  `choices` replace
    settings of the published recipe.  From scratch (init.from=none) the default of
    finetune.layer_decay is 1.  RandAugment is left out for images that it cannot change, unless the
    command line asks for it, or a file that describes such images.  Raises UserError as
    `load_config` and `find_recipe`, where SOURCE is a run that trains no encoder of timm's, and
    where RECIPE is for another one.
    """
    is_second = bool(words) and "=" not in words[0]
    named, overrides = (words[0], words[1:]) if is_second else (source, words)
    if is_second and not Path(source).is_dir():
        raise UserError(f"{source}: no run folder, which {named} needs before it")
    path, written = None, {}
    if is_second or not Path(source).is_dir():
        path = find_recipe(named, COMMAND)
        written = read_yaml(path)
    if Path(source).is_dir():
        source = Path(source)
        config = recorded_config(run_folder(source))
        if config.objective == NAME:
            raise UserError(f"{source}: fine-tuned already; give the pretraining run")
        trains_vit = declaration(config.objective).trains_vit(config)
        if not isinstance(config.model, VitModel) or not trains_vit:
            raise UserError(
                f"{source}: a run of objective {config.objective}, which trains no encoder of "
                "timm's: there is nothing to fine-tune"
            )
        values = config.model_dump(mode="json")
        base: dict[str, Any] = {
            section: {key: values[section][key] for key in keys}
            for section, keys in TAKEN_OVER.items()
        }
        own = written.get("data")
        if _overridden("data.train", overrides) or (isinstance(own, dict) and own.get("train")):
            base["data"].pop("val_share", None)  # a share of the pretraining images
        if base["data"]["crop_pct"] == FORMER_CROP_PCT:
            base["data"]["crop_pct"] = None  # by the size of the classifier's images
        # finetune.drop_path sets this rate.
        base["model"]["encoder_kwargs"].pop("drop_path_rate", None)
        base["output"] = default_output(source)
        base["init"] = {"from": str(source)}
        refuse_other_model(written, f"{path}", base["model"], source)
        encoder = config.model.encoder
    else:
        base = {}
        model = written.get("model")
        encoder = model.get("encoder", "") if isinstance(model, dict) else ""
    encoder = _overridden("model.encoder", overrides) or str(encoder)
    objective = _overridden("objective", overrides) or written.get("objective")
    check_objective(COMMAND, objective or NAME)
    for section, own in recipe_for(encoder, _encoder_kwargs(base, written)).items():
        base[section] = {**own, **base.get(section, {})} if isinstance(own, dict) else own
    own = written.get("data")
    own = own if isinstance(own, dict) else {}
    replaced = nested(choices) if choices else {}
    if _is_beyond_rand_augment(base.get("data", {}) | replaced.get("data", {}) | own, overrides):
        base["finetune"]["rand_augment"] = ""
        is_asked = any(text.startswith(f"{RAND_AUGMENT}=") for text in overrides)
        if not is_asked and not _is_beyond_rand_augment(own, ()):
            overrides = [*overrides, f"{RAND_AUGMENT}="]
    for section, own in replaced.items():
        base[section] = {**base.get(section, {}), **own}
    if _overridden("data.val_share", overrides) not in ("", "0", "0.0"):
        base.get("data", {}).pop("val", None)  # in whose place a share is asked for
    config = load_config(path, overrides, base)
    if config.init.from_ in ("", NONE):
        # Layer decay preserves pretrained lower layers; here there are none.
        base["finetune"]["layer_decay"] = 1.0
        config = load_config(path, overrides, base)
        scratch = config.init.model_copy(update={"from_": ""})
        config = config.model_copy(update={"init": scratch})
    if not config.data.train:
        raise UserError("data.train: give the labelled shards (a mixture is for pretraining)")
    return config


def _encoder_kwargs(*sources: Mapping[str, Any]) -> Mapping[str, Any]:
    """model.encoder_kwargs of the first of some nested settings that has them."""
    models = (source.get("model") for source in sources)
    found = (one.get("encoder_kwargs") for one in models if isinstance(one, dict))
    return next((kwargs for kwargs in found if isinstance(kwargs, dict)), {})


def default_output(source: str | Path) -> str:
    """Folder of a run that is fine-tuned from the run `source`, where none is typed."""
    return f"{run_folder(Path(source))}-finetuned"


def output_folder(source: str | Path, words: Sequence[str]) -> Path:
    """Folder of the run that `words` start or resume from the run folder `source`."""
    typed = _overridden("output", words)
    base = {"objective": NAME, "output": default_output(source)}
    config, _ = given_settings([f"output={typed}"] * bool(typed), COMMAND, base)
    return Path(config.output)


def refuse_other_model(
    written: dict[str, Any], where: str, model: dict[str, Any], source: Path
) -> None:
    """Raise UserError where settings `written` for a run name another `model` than it has."""
    own = written.get("model")
    for key, value in (own if isinstance(own, dict) else {}).items():
        if model.get(key) not in (None, value):
            raise UserError(
                f"{where}: model.{key}: {value}, but {source} was trained with {model[key]}: leave "
                "the recipe out, or edit a copy (mae recipes show)"
            )


def _overridden(key: str, overrides: Sequence[str]) -> str:
    """Last value of a setting on the command line ("": none)."""
    values = [text.partition("=")[2] for text in overrides if text.startswith(f"{key}=")]
    return values[-1] if values else ""


def _is_beyond_rand_augment(data: dict[str, Any], overrides: Sequence[str]) -> bool:
    """True for images that RandAugment cannot change: not three channels of 8 bits."""
    usual = {"in_chans": 3, "bits": 8}
    chosen = {key: _overridden(f"data.{key}", overrides) or data.get(key) for key in usual}
    return any(str(chosen[key] or usual[key]) != str(usual[key]) for key in usual)


def recipe_for(encoder: str, encoder_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Recipe by section, for an encoder by its timm name and arguments.

    In encoders of more blocks than those of the recipe (Hiera, ViT-g) the layer decay is so much
    nearer to 1 that the lowest block learns as slowly.
    """
    size = vit_size(encoder, encoder_kwargs or {})
    of_size = dict(RECIPES.get(size.word, RECIPES["base"]))
    layers, own = of_size["blocks"] + 1, size.depth + 1
    if own > layers:
        of_size["layer_decay"] = round(of_size["layer_decay"] ** (layers / own), 3)
    return {
        "objective": NAME,
        "data": {"scale": list(SCALE)},
        "optim": {
            "blr": of_size["blr"],
            "min_lr": 1e-6,
            "warmup_epochs": 5,
            "weight_decay": 0.05,
            "betas": [0.9, 0.999],
        },
        "train": {"epochs": of_size["epochs"], "batch_size": 1024},
        "finetune": {key: of_size[key] for key in ("layer_decay", "drop_path")},
        "log": {"health_every": 1, "panel_every": 0},
    }


def describe_recipe() -> str:
    """Text of the recipe for --help, printed before the defaults."""
    values = flatten(recipe_for("vit_base_patch16_224"))
    lines = "\n".join(f"  {key} = {value}" for key, value in values.items())
    return (
        f"recipe (for vit_base; large and huge have their own optim.blr, train.epochs,\n"
        f"finetune.layer_decay and finetune.drop_path):\n\n{lines}\n\n"
        "all settings (section.key = default, where neither the recipe nor SOURCE says otherwise):"
        "\n\n"
    )
