"""Objectives with weights: freshly initialised, from a checkpoint, or from a `plain` export.

A `plain` export, available for any objective, is a folder with config.json, the settings, and
model.safetensors, all weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mae import __version__
from mae.base.errors import UserError
from mae.base.files import write_json
from mae.config.loading import parse_recorded_config
from mae.config.sections import Config
from mae.objectives.base import Objective
from mae.objectives.registry import declaration, implementation
from mae.training.checkpoint.checkpoint_files import TrainingState, newest_checkpoint, read_state
from mae.training.checkpoint.resume import load_model
from mae.training.checkpoint.run import find_run

CONFIG = "config.json"
FORMAT, VERSION = "plain", 1
"""entries format and format_version of config.json"""


def build_objective(config: Config) -> Objective:
    """Build the objective that the settings describe, initialised from train.seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return implementation(config.objective).build(config)


def refuse_probe(folder: str | Path) -> None:
    """Raise UserError where `folder` is the run of a probe, whose encoder is another run's."""
    declared = declaration(find_run(folder).config().objective)
    if declared.is_probe:
        raise UserError(
            f"{folder}: objective {declared.name} measures a frozen encoder: give the run or the "
            "export that it probes"
        )


def load_pretrained(folder: str | Path) -> tuple[Config, Objective, TrainingState]:
    """Load the model of a checkpoint, with averaged weights if any; eval mode, on the CPU.

    `folder` is a run, for its newest intact checkpoint, or a checkpoint in a run.  Raises
    UserError where it is neither, is damaged or has no checkpoint yet.
    """
    run, path = find_run(folder), Path(folder)
    config = run.config()
    if run.folder != path:
        state = read_state(path)
    else:
        found = newest_checkpoint(run.checkpoints)
        if found is None:
            raise UserError(f"{folder}: no checkpoint yet")
        path, state = found.path, found.state
    objective = build_objective(config)
    load_model(path, objective, averaged=True)
    return config, objective.eval(), state


class PlainExport(NamedTuple):
    """Settings and training state of a plain export."""

    config: Config
    state: TrainingState
    """state of the run that trained it, at the exported checkpoint"""


def write_description(folder: Path, config: Config, state: TrainingState) -> None:
    """Write config.json."""
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "mae": __version__,
        "objective": config.objective,
        "step": state.step,
        "samples": state.samples,
        "data": state.data,
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / CONFIG, content)


def is_plain(content: Mapping[str, Any]) -> bool:
    """True where this is the content of a plain export's config.json."""
    return content.get("format") == FORMAT and "format_version" in content


def read_description(folder: Path) -> PlainExport:
    """Read config.json; UserError where it is absent, damaged, or of another format or version."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no plain export here (no {CONFIG})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict) or not is_plain(content):
        raise UserError(f"{path}: describes no plain export")
    if content["format_version"] != VERSION:
        made = f"{path}: format_version {content['format_version']}"
        raise UserError(f"{made}; this version reads {VERSION}: install a newer one")
    try:
        state = TrainingState(int(content["step"]), int(content["samples"]), str(content["data"]))
        settings = dict(content["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    return PlainExport(parse_recorded_config(settings, str(path)), state)


def load_plain(folder: str | Path) -> tuple[Config, Objective, TrainingState]:
    """Load the model of a plain export, in evaluation mode, on the CPU.

    Raises UserError where `folder` is not a plain export, is damaged, or has an unknown
    objective.
    """
    folder = Path(folder)
    config, state = read_description(folder)
    objective = build_objective(config)
    load_model(folder, objective)
    return config, objective.eval(), state
