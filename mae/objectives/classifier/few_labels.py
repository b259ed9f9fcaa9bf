"""Recipe of fine-tuning adapted to few labelled images, each change with its reason.

The published recipes are for a million images; docs/CHOOSING.md has the evidence.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mae.config.choices import Choice, is_given, power_of_two, recorded_choices
from mae.config.loading import read_recorded, recorded_config, values_of
from mae.config.migration import renamed_keys
from mae.config.sections import OF_THIS_CALL, Config
from mae.config.types import flatten
from mae.networks.vit_sizes import PUBLISHED, vit_size
from mae.objectives.classifier.recipe import (
    NAME,
    finetune_settings,
    output_folder,
    recipe_for,
)
from mae.objectives.shared_sections import VitModel

MANY = 100_000
"""labelled images from which the published recipe stays as it is"""
STEPS_AN_EPOCH = 64
"""least number of steps in an epoch, while the batch is above SMALLEST"""
SMALLEST, LARGEST = 16, 512
"""batch"""
FEWEST_STEPS = 1000
"""least number of steps, for which the epochs grow"""
LONG = 500_000
"""images seen, repetitions counted, from which mixing and drop path pay"""
SHORT_EPOCHS = 30
"""epochs below which strong augmentation costs more than it gains"""
LARGE_CROPS = [0.5, 1.0]
"""area of the crops in such a run, as shares of the image's"""
EVALUATIONS = 10
"""evaluations on data.val in a run"""
WARMUP = 0.05
"""share of the epochs"""
PUBLISHED_BATCH, PUBLISHED_WARMUP = 1024, 5.0
PUBLISHED_WIDTH, PUBLISHED_LAYERS = PUBLISHED["base"].width, PUBLISHED["base"].depth + 1
"""width of ViT-B, and its layers with a learning rate of their own (blocks and patch projection)"""

CHOSEN = (
    *("train.batch_size", "train.epochs", "optim.lr", "optim.warmup_epochs"),
    *("finetune.mixup", "finetune.cutmix", "finetune.drop_path", "finetune.layer_decay"),
    *("finetune.rand_augment", "finetune.random_erasing", "data.scale", "log.health_every"),
)
"""settings that may be chosen"""


def adapted_settings(
    source: str | Path, words: Sequence[str], count: Callable[[Config], int] | None
) -> Config:
    """Settings as `finetune_settings`; of a run without RECIPE adapted to the number of labels.

    `count` returns the number of labelled images; None: nothing depends on it.  The warm-up is at
    most a share of given epochs.  A run that is resumed keeps what its folder has recorded, of its
    data with RECIPE, too.  Raises as `finetune_settings` and `count` do.
    """
    if not Path(source).is_dir():
        return finetune_settings(source, words)
    folder = output_folder(source, words)
    kept = recorded_data(folder, [renamed(word) for word in words])
    if words and "=" not in words[0]:
        return finetune_settings(source, words, kept)
    config = finetune_settings(source, words, [*kept, *_warmup_of(words)])
    if count is None:
        return config
    given = values_of(config, [renamed(word) for word in words])
    if (folder / "config.yaml").exists():
        recorded = read_recorded(folder)[0]
        reasons = {one.key: one.reason for one in recorded_choices(recorded)}
        flat = flatten(recorded)
        choices = [
            Choice(key, flat[key], reasons.get(key, ""))
            for key in CHOSEN
            if key in flat and key not in given and flat[key] is not None
        ]
    else:
        assert isinstance(config.model, VitModel)
        recipe = recipe_for(config.model.encoder, config.model.encoder_kwargs)
        size = vit_size(config.model.encoder, config.model.encoder_kwargs)
        choices = adapted(recipe, count(config), given, size.width, size.depth)
        choices = choices or list(_warmup_of(words))
    if not config.init.from_:
        choices = [one for one in choices if one.key != "finetune.layer_decay"]
    return finetune_settings(source, words, [*kept, *choices])


def recorded_data(folder: Path, typed: Collection[str]) -> list[Choice]:
    """Settings of data that the run in `folder` has recorded, except the keys that are `typed`.

    Without them a resumed run would read the data of the pretraining.  Empty where there is no
    fine-tuned run; settings of a call are never taken from a folder.
    """
    if not (folder / "config.yaml").exists():
        return []
    config = recorded_config(folder)
    if config.objective != NAME:
        return []
    return [
        Choice(key, value, config.auto.chosen.get(key, ""))
        for name, value in config.data.model_dump(mode="json").items()
        if name not in OF_THIS_CALL and not is_given(key := f"data.{name}", typed)
    ]


def _warmup_of(words: Sequence[str]) -> Iterator[Choice]:
    """Choice of a warm-up that fits into given epochs, where these are few."""
    epochs = [word.partition("=")[2] for word in words if word.startswith("train.epochs=")]
    with suppress(ValueError):  # which is reported when the settings are loaded
        if epochs and (short := WARMUP * float(epochs[-1])) < PUBLISHED_WARMUP:
            yield Choice("optim.warmup_epochs", short, f"{WARMUP:.0%} of {epochs[-1]} epochs")


def renamed(word: str) -> str:
    """Key of `section.key=value`, by today's name."""
    key = word.partition("=")[0]
    return renamed_keys().get(key, key)


def adapted(
    recipe: Mapping[str, Any],
    images: int,
    given: Mapping[str, Any],
    width: int = PUBLISHED_WIDTH,
    depth: int = PUBLISHED_LAYERS - 1,
) -> list[Choice]:
    """Settings that replace those of `recipe` (nested) for so many labelled images.

    `given`: settings of the user as section.key → value, which stay as they are, and which the
    others follow.  `width` and `depth` of the encoder.  Empty from MANY images on.
    """
    if images >= MANY:
        return []
    made: list[Choice] = []

    def choose(key: str, value: Any, reason: str) -> Any:
        if is_given(key, given):
            return given[key]
        made.append(Choice(key, value, reason))
        return value

    batch = min(LARGEST, max(SMALLEST, power_of_two(images / STEPS_AN_EPOCH)))
    batch = min(batch, power_of_two(images / 2))
    batch = choose("train.batch_size", batch, f"{images:,} labelled images")
    epochs = recipe["train"]["epochs"]
    longer = math.ceil(FEWEST_STEPS * batch / images)
    if longer > epochs:
        epochs = choose("train.epochs", longer, f"{FEWEST_STEPS:,} steps")
    else:
        epochs = given.get("train.epochs", epochs)
    if not is_given("optim.blr", given):
        narrower = max(1.0, PUBLISHED_WIDTH / width)
        peak = recipe["optim"]["blr"] * PUBLISHED_BATCH / 256 * narrower
        lr = float(f"{peak * math.sqrt(batch / PUBLISHED_BATCH):.2g}")
        size = f" and a width of {width}" * (narrower > 1)
        choose("optim.lr", lr, f"for a batch of {batch}{size}")
    if depth + 1 < PUBLISHED_LAYERS:
        decay = recipe["finetune"]["layer_decay"] ** (PUBLISHED_LAYERS / (depth + 1))
        reason = f"the lowest of {depth} blocks learns as slowly as that of 12"
        choose("finetune.layer_decay", float(f"{decay:.2g}"), reason)
    warmup = float(f"{WARMUP * epochs:.2g}")
    if warmup < PUBLISHED_WARMUP:
        choose("optim.warmup_epochs", warmup, f"{WARMUP:.0%} of {epochs:g} epochs")
    if epochs > EVALUATIONS:
        choose("log.health_every", float(math.ceil(epochs / EVALUATIONS)), "about ten evaluations")
    if epochs * images < LONG:
        short = f"pays from {LONG:,} images seen on; here {round(epochs * images):,}"
        for key in ("mixup", "cutmix", "drop_path"):
            choose(f"finetune.{key}", 0.0, short)
    if epochs < SHORT_EPOCHS:
        few = f"strong augmentation costs accuracy in {epochs:g} epochs"
        choose("finetune.rand_augment", "", few)
        choose("finetune.random_erasing", 0.0, few)
        choose("data.scale", LARGE_CROPS, few)
    return made
