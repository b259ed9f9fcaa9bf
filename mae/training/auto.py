"""`mae pretrain auto`: settings chosen from the images and the machine.

The objective has the rules (`Declaration.choose`).  Facts are gathered by the first process, the
choices printed with their reasons and recorded in the run's config.yaml, below `auto.chosen`; a run
that is resumed takes them from there, whatever the rules, the machine or the data say by then.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from mae.base.errors import UserError
from mae.base.first_process import from_first_process
from mae.base.progress import ProgressLine
from mae.config.choices import (
    GIVEN,
    Choice,
    describe_choices,
    is_given,
    nested,
    recorded_choices,
)
from mae.config.loading import given_settings, load_config, read_recorded
from mae.config.recipes import AUTO, find_recipe
from mae.config.sections import Config
from mae.config.types import flatten
from mae.objectives.registry import declaration

OUTPUT = "runs/auto"
"""default of `output`"""
WARMUP = "optim.warmup_epochs"
"""setting that goes with train.epochs"""
EVALUATIONS = "log.health_every"
"""setting that has an effect with held-out images alone"""
HELD_OUT, FEWEST_HELD_OUT = 0.05, 20
"""share of a folder that is held out, and the least number of images"""


def settings_of(recipe: str, overrides: Sequence[str], command: str) -> Config:
    """Settings of `command` RECIPE: AUTO, the name of a recipe, or a YAML file.

    Raises UserError where they are wrong, as `auto_config`, `find_recipe` and `load_config` do.
    """
    if recipe == AUTO:
        return auto_config(overrides, command)
    if planned := [one for one in overrides if one.startswith("auto.")]:
        raise UserError(f"{planned[0]}: only for {command} {AUTO}")
    return load_config(find_recipe(recipe, command), overrides, command=command)


def auto_config(overrides: Sequence[str], command: str) -> Config:
    """Settings of `command` auto with `overrides`, printed by the first process.

    Raises UserError as `load_config` and `mae.data.facts.data_facts` do, where no data is given,
    where the objective has no rules, and where the folder holds a run that was started otherwise.
    """
    config, given = checked(overrides, command)
    folder, held_out = Path(config.output), []
    if not (folder / "config.yaml").exists():
        from mae.training.folders import prepare_folders

        for one in (held_out := held_out_share(config, given)):  # which is packed along
            data = config.data.model_copy(update={"val_share": one.value})
            config = config.model_copy(update={"data": data})
        prepare_folders(config, suggests=False)  # before the processes connect
    choices, lines = from_first_process(
        lambda: _choose(config, given, folder, held_out),
        timedelta(minutes=config.train.timeout_minutes),
    )
    if os.environ.get("RANK", "0") in ("", "0"):
        print("\n".join(lines), flush=True)
    return load_config(
        None, overrides, {"output": OUTPUT, "recipe": AUTO} | nested(choices), command
    )


def checked(overrides: Sequence[str], command: str) -> tuple[Config, dict[str, Any]]:
    """Settings of the command line, with `output`, and theirs alone by section.key.

    Raises UserError for what needs neither data nor torch to be seen as wrong.
    """
    config, given = given_settings(overrides, command)
    declared = declaration(config.objective)
    if given.get("init.from") and not is_given("model.encoder", given):
        raise UserError(
            "init.from: auto chooses the encoder by itself: give model.encoder=… and "
            "model.patch_size=… of these weights, too"
        )
    if not declared.has_rules:
        raise UserError(
            f"objective: {command} auto has no rules for {declared.name}: start from its recipe"
        )
    if not config.data.train and not config.data.mixture:
        raise UserError(
            f"data.train: give the images: {command} auto data.train='shards/train-*.tar'"
        )
    return config.model_copy(update={"output": config.output or OUTPUT}), given


def may_hold_out(config: Config, given: Mapping[str, Any]) -> bool:
    """True where the images are a folder, and nothing is said on held-out ones."""
    data = config.data
    if data.val or "data.val_share" in given or len(data.train) != 1:
        return False
    from mae.pack.packed_folders import is_folder

    return is_folder(data.train[0])


def held_out_share(config: Config, given: Mapping[str, Any]) -> list[Choice]:
    """Choice of a share of a folder that is held out, where nothing else is, and it is enough."""
    if not may_hold_out(config, given):
        return []
    from mae.pack.packed_folders import list_images

    images = len(list_images(config.data.train[0], "data.train").sizes)
    if images * HELD_OUT < FEWEST_HELD_OUT:
        return []
    return [Choice("data.val_share", HELD_OUT, f"about {round(HELD_OUT * images):,} images")]


def _counted(choices: Sequence[Choice], config: Config) -> list[Choice]:
    """Choices of `held_out_share` with the number of images that their names hold out."""
    from mae.data.indexing import build_manifest
    from mae.pack.packed_folders import with_packed_folders
    from mae.storage.cache import build_cache

    data = config.data
    counted = []
    for one in choices:
        shards = with_packed_folders(data.held_out, "data.val", data)
        images = len(build_manifest(shards, "data.val", data.index_dir, build_cache(data)))
        reason = f"{images:,} images held out, for panels and measurements"
        counted.append(one._replace(reason=reason))
    return counted


def _choose(
    config: Config, given: dict[str, Any], folder: Path, before: Sequence[Choice]
) -> tuple[Sequence[Choice], list[str]]:
    """The choices and the lines that describe them: recorded ones, or new ones."""
    if (folder / "config.yaml").exists():
        return _as_recorded(folder, given)

    from mae.base.machine import this_machine
    from mae.data.facts import data_facts
    from mae.data.joined_manifests import merge
    from mae.data.opening import training_manifests
    from mae.storage.cache import build_cache

    with ProgressLine("indexing", "shards") as progress:
        manifest = merge(training_manifests(config.data, progress))
    facts, machine = data_facts(manifest, build_cache(config.data)), this_machine()
    choices = [
        *_counted(before, config),
        *declaration(config.objective).choose(facts, machine, given),
    ]
    lines = [f"auto    {facts}; {machine}"]
    if not config.data.held_out:
        choices = [one for one in choices if one.key != EVALUATIONS or one.reason == GIVEN]
        if may_hold_out(config, given):
            lines.append(
                f"        {facts.images:,} images are too few to hold any out "
                f"({FEWEST_HELD_OUT / HELD_OUT:.0f} are enough); data.val=FOLDER gives some"
            )
    return choices, [*lines, *describe_choices(choices)]


def _as_recorded(folder: Path, given: Mapping[str, Any]) -> tuple[list[Choice], list[str]]:
    """Choices that a run was started with, their warm-up in proportion to other epochs, if given.

    Raises UserError where the run was not started by auto, or was planned for other hours.
    """
    values = read_recorded(folder)[0]
    recorded = recorded_choices(values)
    if not recorded:
        raise UserError(
            f"output: {folder} holds a run that was not started by auto: give its recipe to "
            "continue it, or another output="
        )
    own, asked = flatten(values), given.get("auto.hours")
    planned = own.get("auto.hours")
    if asked is not None and asked != planned:
        before = "by default" if planned is None else f"for {planned:g} h"
        raise UserError(
            f"auto.hours: {asked:g} has no effect: {folder} was planned {before}, and continues as "
            "planned. Give another output= for a new plan, or train.epochs=… to shorten or "
            f"lengthen this run ({own['train.epochs']:g})"
        )
    if planned is not None and not any(one.key == "auto.hours" for one in recorded):
        recorded.append(Choice("auto.hours", planned, GIVEN))
    lines = [f"auto    settings as recorded in {folder / 'config.yaml'}"]
    epochs, before = given.get("train.epochs"), own["train.epochs"]
    if not epochs or epochs == before:
        return recorded, lines
    other = {
        one.key: one._replace(value=epochs, reason=GIVEN)
        if one.key == "train.epochs"
        else one._replace(value=float(f"{one.value * epochs / before:.2g}"))
        for one in recorded
        if one.key in ("train.epochs", WARMUP)
    }
    return [other.get(one.key, one) for one in recorded], lines


def labelled_images(config: Config) -> int:
    """Number of training images, counted by the first process of a launch."""
    from mae.data.opening import training_manifest
    from mae.training.folders import prepare_folders

    def count() -> int:
        return len(training_manifest(config.data))

    prepare_folders(config)  # before the processes connect
    return from_first_process(count, timedelta(minutes=config.train.timeout_minutes))
