"""Two-stage objectives: trained on a frozen model, of which each run keeps a copy.

The settings `model.KEY`, the source, and `model.sha256`, the checksum of its weights, identify the
first stage; `Declaration.first_stage` is KEY.  The run folder holds a copy, so that checkpoints
hold the trained part alone and the source is not needed again.
"""

from pathlib import Path

from mae.base.errors import UserError
from mae.base.files import read_json
from mae.config.sections import Config
from mae.evaluation.encoders import weights_sha256
from mae.export.plain import without_local_paths
from mae.objectives.base import FirstStage
from mae.objectives.registry import declaration
from mae.pretrained_weights.find import find_trained_model
from mae.pretrained_weights.init_record import shown_source
from mae.pretrained_weights.opened import is_run, open_model
from mae.training.checkpoint.checkpoint_files import checkpoints
from mae.training.checkpoint.run import Run, find_run
from mae.training.checkpoint.trained import (
    INIT,
    build_objective,
    read_description,
    with_kept_stage,
)


def complete_first_stage(config: Config) -> tuple[Config, Config]:
    """Settings of a run that starts or resumes, with the checksum of the first stage; the stage's.

    A run that has its own copy goes on with that.  Raises UserError where the copy is missing, the
    source cannot be opened, or has changed since the run was started.
    """
    key, run = declaration(config.objective).first_stage, Run(config.output)
    sha256 = checksum_of(config)
    is_recorded = bool(sha256)
    if not is_recorded and run.config_file.exists():
        sha256 = checksum_of(run.config())
    config = with_checksum(config, sha256)
    located = with_kept_stage(config, run.folder, is_new=not checkpoints(run.checkpoints))
    if located is config:
        found = build_first_stage(config)
        return with_checksum(config, found.sha256), found.config
    if not is_recorded:
        refuse_changed_source(config, run)
    return config, read_description(getattr(located.model, key)).config


def read_as(config: Config, stage: Config) -> Config:
    """Settings of a run that reads images as its first stage, of settings `stage`, does.

    Raises UserError where the first stage reads other channels, bits, sizes or normalises
    differently from what the settings say.
    """
    key, theirs, ours = declaration(config.objective).first_stage, stage.data, config.data
    source = getattr(config.model, key)
    if (theirs.in_chans, theirs.bits) != (ours.in_chans, ours.bits):
        raise UserError(
            f"model.{key}: {source} reads {theirs.in_chans} channels of {theirs.bits} bits; "
            f"set data.in_chans={theirs.in_chans} data.bits={theirs.bits}"
        )
    if ours.img_size not in (None, theirs.img_size):
        raise UserError(
            f"data.img_size: {ours.img_size} is not the {theirs.img_size} of {source}: leave it out"
        )
    for name in ("mean", "std"):
        if name in ours.model_fields_set and getattr(ours, name) != getattr(theirs, name):
            raise UserError(f"data.{name}: the normalisation is the {key}'s: leave it out")
    reading = {"img_size": theirs.img_size, "mean": theirs.mean, "std": theirs.std}
    return config.model_copy(update={"data": ours.model_copy(update=reading)})


def refuse_changed_source(config: Config, run: Run) -> None:
    """Raise UserError where the source is still there, with other weights than the run's copy."""
    key, sha256 = declaration(config.objective).first_stage, checksum_of(config)
    source = getattr(config.model, key)
    try:
        found = open_first_stage(config)
    except UserError:  # it is no longer needed
        return
    if found.sha256 != sha256:
        raise UserError(
            f"{changed(source, key, found.sha256, sha256)}, choose another output=, or go on with "
            f"{run.config_file}, by the run's own copy"
        )


def build_first_stage(config: Config) -> FirstStage:
    """First stage of the settings, for `Implementation.build`: not trained, evaluation mode.

    Raises UserError where it cannot be opened, or has other weights than `model.sha256`.
    """
    key = declaration(config.objective).first_stage
    source, sha256 = getattr(config.model, key), checksum_of(config)
    found = open_first_stage(config)
    if sha256 not in ("", found.sha256):
        raise UserError(changed(source, key, found.sha256, sha256))
    return found


def open_first_stage(config: Config) -> FirstStage:
    """Load the first stage from any source of `open_model`; UserError where that fails.

    With `model.untrained` its weights are freshly initialised, unless the source is a copy of such.
    """
    key = declaration(config.objective).first_stage
    source = getattr(config.model, key)
    try:
        opened = open_model(source)
    except UserError as error:
        raise UserError(f"model.{key}: {with_command(str(error), source, key)}") from None
    folder = find_run(source).folder if is_run(source) else source
    init = read_json(folder / INIT) or opened.init
    lines = [f"{key} {with_command(line, source, key)}" for line in opened.lines]
    model, state = opened.objective, opened.state
    if getattr(config.model, "untrained", False):
        if not init.get("untrained"):
            model = build_objective(opened.config).eval()
        init, lines, state = {"untrained": True}, [], None
    elif "from" in init:
        init = init | {"from": shown_source(str(init["from"]))}
    model.requires_grad_(False)
    own = without_local_paths(opened.config)
    return FirstStage(own, model, weights_sha256(model), state, init, lines)


def with_command(text: str, source: Path, key: str) -> str:
    """`text`, with the command that has the options which it names."""
    if "--" not in text:
        return text
    return f"{text} (options of `mae export {source} FOLDER --format timm`; model.{key}=FOLDER)"


def refuse_other_stage(config: Config, *settings: str) -> None:
    """Raise UserError where the weights of init.from were trained on another first stage.

    `settings`: further ones of `model:` that must be the same.
    """
    trained = find_trained_model(config.init.from_)
    if trained is None or not (theirs := checksum_of(trained.config)):
        return
    own, source = checksum_of(config), config.init.from_
    for setting in settings:
        before, now = (getattr(one.model, setting, None) for one in (trained.config, config))
        if before != now:
            raise UserError(
                f"init.from: {source} was trained with model.{setting}={before}, not {now}: set it"
            )
    if theirs != own:
        key = declaration(config.objective).first_stage
        raise UserError(
            f"init.from: {source} was trained on another {key} (sha256 {theirs[:16]}, "
            f"model.{key} has {own[:16]}): name that one"
        )


def checksum_of(config: Config) -> str:
    """Checksum of the first stage by the settings; empty: not filled in yet."""
    return getattr(config.model, "sha256", "")


def with_checksum(config: Config, sha256: str) -> Config:
    """Settings with the checksum of the first stage."""
    model = config.model.model_copy(update={"sha256": sha256})
    return config.model_copy(update={"model": model})


def changed(source: Path, key: str, found: str, expected: str) -> str:
    """Message on weights that are not those that a run was started with."""
    return (
        f"model.{key}: {source} is not what the run was started with (sha256 {found[:16]}, then "
        f"{expected[:16]}): restore it"
    )
