"""Objectives as runs have them: freshly initialised, or with the weights of a checkpoint."""

from pathlib import Path

import torch

from mae.base.errors import UserError
from mae.config.sections import Config
from mae.objectives.base import Objective
from mae.objectives.registry import declaration, implementation
from mae.training.checkpoint import Position, newest_checkpoint, read_position
from mae.training.restore import load_model
from mae.training.run import run_of


def build_objective(config: Config) -> Objective:
    """The objective that the settings describe, initialised from `train.seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return implementation(config.objective).build(config)


def refuse_probe(folder: str | Path) -> None:
    """UserError where `folder` is the run of a probe, whose encoder is another run's."""
    declared = declaration(run_of(folder).config().objective)
    if declared.is_probe:
        raise UserError(
            f"{folder}: objective {declared.name} measures a frozen encoder: give the run or the "
            "export that it probes"
        )


def load_pretrained(folder: str | Path) -> tuple[Config, Objective, Position]:
    """The model of a checkpoint, in evaluation mode, on the CPU; its averaged weights, if any.

    `folder` is a run, whose newest intact checkpoint it is then, or a checkpoint in a run.
    Raises UserError where it is neither, is damaged or has no checkpoint yet.
    """
    run, path = run_of(folder), Path(folder)
    config = run.config()
    if run.folder != path:
        position = read_position(path)
    else:
        found = newest_checkpoint(run.checkpoints)
        if found is None:
            raise UserError(f"{folder}: no checkpoint yet")
        path, position = found.path, found.position
    objective = build_objective(config)
    load_model(path, objective, averaged=True)
    return config, objective.eval(), position
