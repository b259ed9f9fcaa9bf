"""Training from a program or notebook: runs, classifiers, and objectives for loops of one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mae.api.call_text import call_text
from mae.api.calling_program import freed_frames, kept_state, one_at_a_time
from mae.api.run import Run
from mae.api.settings import (
    Data,
    File,
    Recipe,
    as_call,
    expanded,
    recipe_settings,
    setting_words,
)
from mae.base.errors import RunFailed, Stopped, UserError
from mae.base.launch import called_as, check_launch
from mae.config.sections import Config, DataConfig
from mae.finetune import settings_of as classifier_settings
from mae.pack.packed_folders import settled_folders
from mae.training.safety.lifecycle import RunLifecycle
from mae.training.start import train_here

if TYPE_CHECKING:
    from mae.objectives.base import Objective

IN_WORDS = (UserError, RunFailed, Stopped, KeyboardInterrupt)
"""errors whose message says all"""


@settled_folders()
def train(
    recipe: Recipe,
    data: Data | None = None,
    *,
    val: File | Sequence[File] | None = None,
    out: File | None = None,
    **settings: Any,
) -> Run:
    """Pretrain in this process, as `mae pretrain RECIPE` does: the same run, bit for bit.

    ```python
    run = mae.train("tiles.yaml", data="shards/*.tar", out="runs/tiles", train={"epochs": 50})
    ```

    The same call resumes from the newest checkpoint, and returns at once where the run is finished.
    Progress is printed.  Ctrl-C, or a notebook's stop button, lets the step finish, writes a
    checkpoint and raises KeyboardInterrupt; a second one leaves without a checkpoint.  In other
    threads than the main one signals do not stop a training.

    Args:
        recipe: name of a recipe (`mae recipes` lists them), path of a YAML file, or its content: a
            mapping of sections, or the `config` of a run; "auto": settings are chosen from the
            images and the machine, and printed with their reasons.
        data: training data (data.train): a folder of images, or shards: path, glob, brace pattern,
            address; or a list of these.  Or the section `data` as a mapping.
        val: held-out shards (data.val).
        out: run folder (output; default: runs/ followed by the name of the recipe).
        settings: sections as mappings, or single settings by their dotted names:
            `train={"epochs": 5}` or `**{"train.epochs": 5}`.  `mae pretrain --help` lists them.

    Returns:
        The finished run.

    Raises:
        UserError: where settings or data are wrong; a line for each wrong setting.
        RunFailed: where the run cannot go on: too many bad images, weights that are not finite.
        Stopped: after SIGTERM or SIGUSR1, with a checkpoint.
        KeyboardInterrupt: after SIGINT, with a checkpoint.
    """
    try:
        words = setting_words(data, val, out, settings)
        call = call_text("train", recipe, {"data": data, "val": val, "out": out, **settings})
        return _trained(recipe_settings(recipe, words), call)
    except IN_WORDS as error:
        raise as_call(error) from None


@settled_folders()
def train_classifier(
    run: Run | File,
    data: Data | None = None,
    *,
    val: File | Sequence[File] | None = None,
    out: File | None = None,
    **settings: Any,
) -> Run:
    """Fine-tune a pretrained encoder on labels in this process, as `mae finetune RUN` does.

    ```python
    classifier = mae.train_classifier(run, data="labelled/*.tar", val="test/*.tar")
    classifier.figures["evaluation"]["accuracy"]
    ```

    Where `val` is given, or the run has one, the classifier is evaluated on it at the end; the
    table is printed.  Stopping and resuming are those of `train`.

    Args:
        run: pretraining run, or its folder; one of its checkpoints; or a YAML file of settings with
            `init: {from: …}`.
        data: labelled training shards (data.train; default: those of the run); or the section
            `data` as a mapping.
        val: labelled held-out shards (data.val).
        out: run folder (default: RUN-finetuned).
        settings: as those of `train`; `mae finetune --help` lists them.

    Returns:
        The finished run of the classifier.

    Raises:
        UserError: where settings, data or labels are wrong, or the run trains no encoder of timm's.
        RunFailed: where the run cannot go on.
        Stopped: after SIGTERM or SIGUSR1, with a checkpoint.
        KeyboardInterrupt: after SIGINT, with a checkpoint.
    """
    try:
        words = setting_words(data, val, out, settings)
        given = {"data": data, "val": val, "out": out, **settings}
        config = classifier_settings(expanded(run), words)
        trained = _trained(config, call_text("train_classifier", run, given))
        if config.data.held_out:
            from mae.commands.evaluate import evaluate_held_out

            with freed_frames():
                print(evaluate_held_out(config))
        return trained
    except IN_WORDS as error:
        raise as_call(error) from None


def build(recipe: Recipe, **settings: Any) -> Objective:
    """Build the objective of a recipe, freshly initialised, for a training loop of one's own.

    ```python
    objective = mae.build("tiles.yaml")
    noise = objective.draw(batch.images, batch.seeds, batch.labels)
    losses = objective(batch.images, noise, progress).losses
    ```

    It is a torch module on the CPU, in training mode (`mae.objectives.base.Objective`):
    `draw(images, seeds, labels)` makes all random choices, `forward(images, noise, progress)` the
    losses by name, whose sum is to be minimised, and `encode(images)` the features.  `images` are
    uint8 or uint16 [b c h w], as `ShardStream` gives them, `seeds` int64 [b], `progress` the
    finished share of the training, a 0-d tensor in [0, 1].  docs/PYTHON.md has a whole loop.

    Args:
        recipe: as that of `train`, but for "auto", which needs data; of any objective.
        settings: as those of `train`.

    Returns:
        The objective, with weights drawn by train.seed.

    Raises:
        UserError: where a setting is wrong; a line for each.
    """
    from mae.training.checkpoint.trained import build_objective

    try:
        config = recipe_settings(recipe, setting_words(None, None, None, settings), is_whole=False)
        data, usual = config.data, DataConfig()
        if data.own_statistics and (data.mean, data.std) == (usual.mean, usual.std):
            raise UserError(
                "data.own_statistics: is measured on training images, of which there are none "
                "here: set data.mean and data.std"
            )
        return build_objective(config)
    except UserError as error:
        raise as_call(error) from None


def _trained(config: Config, call: str) -> Run:
    """Train the run that `config` describes, in this process, and record the `call`."""
    if not config.output:
        raise UserError("out: give the folder of the run")
    check_launch(os.environ)
    if (processes := os.environ.get("WORLD_SIZE") or "1") != "1":
        raise UserError(
            f"training: a launcher started {processes} processes, and this is for one: use mae "
            "pretrain or mae finetune with --processes"
        )
    with one_at_a_time(), freed_frames(), kept_state(), called_as(call):
        lifecycle = RunLifecycle()
        try:
            lifecycle.call(lambda: train_here(config, lifecycle))
        except Stopped as error:
            message = f"{config.output}: {error}; the same call continues the run"
            if lifecycle.stop.requested == "SIGINT":
                raise KeyboardInterrupt(message) from None
            raise type(error)(message) from None
    return Run(config.output)
