"""Objectives with weights: freshly initialised, from a checkpoint, or from a `plain` export.

A `plain` export, available for any objective, is a folder with config.json, the settings, and
model.safetensors, all weights.  Of an objective with a frozen first stage, run folders and plain
exports have a further folder, `frozen/`: a plain export of that stage.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import LayerNorm

from mae import __version__
from mae.base.errors import UserError
from mae.base.files import new_folder, save_tensors, write_json
from mae.config.loading import parse_recorded_config
from mae.config.sections import Config
from mae.objectives.base import FirstStage, Objective
from mae.objectives.registry import declaration, implementation
from mae.training.checkpoint.checkpoint_files import (
    WEIGHTS,
    TrainingState,
    newest_checkpoint,
    read_state,
)
from mae.training.checkpoint.resume import load_model
from mae.training.checkpoint.run import find_run

CONFIG = "config.json"
FORMAT, VERSION = "plain", 1
"""entries format and format_version of config.json"""
INIT = "init.json"
"""record of the weights of others that these were trained from"""
FROZEN = "frozen"
"""folder with the frozen first stage, in a run folder or plain export"""


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
    objective = build_objective(with_kept_stage(config, run.folder))
    load_model(path, objective, averaged=True)
    return config, objective.eval(), state


def with_kept_stage(config: Config, folder: Path, *, is_new: bool = False) -> Config:
    """Settings by which the first stage is read from its copy in a run folder or plain export.

    Unchanged for an objective of one stage.  `is_new`: the folder of a run without checkpoints, of
    which the copy may not be made yet.  Raises UserError where the copy is missing.
    """
    key = declaration(config.objective).first_stage
    if not key or getattr(config.model, key) == Path():
        return config
    kept = folder / FROZEN
    if not (kept / CONFIG).exists():
        if is_new:
            return config
        raise UserError(f"{kept}: missing: the {key} that {folder} was trained on; restore it")
    return config.model_copy(update={"model": config.model.model_copy(update={key: kept})})


def keep_first_stage(objective: Objective, folder: Path) -> None:
    """Write the first stage, if any, into a run folder or plain export, unless it is there.

    Raises UserError where it cannot be written.
    """
    stage, kept = objective.first_stage, folder / FROZEN
    if stage is not None and not (kept / CONFIG).exists():
        write_stage(stage, kept)


def write_stage(stage: FirstStage, out: Path) -> None:
    """Write a frozen model as a plain export into the new folder `out`.

    Raises UserError where it cannot be written.
    """
    with new_folder(out) as part:
        tensors = {k: v.detach().cpu().clone() for k, v in stage.model.state_dict().items()}
        save_tensors(tensors, part / WEIGHTS, {"format": "pt"})
        state = stage.state or TrainingState(0, 0, "")
        adopted = {} if state.step else beyond_settings(stage.model, stage.config)
        write_description(part, stage.config, state, adopted)
        if stage.init:
            write_json(part / INIT, dict(stage.init))


def beyond_settings(model: Objective, config: Config) -> dict[str, Any]:
    """Properties of a model of foreign weights that no setting records (`PlainExport.adopted`)."""
    whole = build_objective(config)
    usual = {name: part.eps for name, part in whole.named_modules() if isinstance(part, LayerNorm)}
    return {
        "absent": [name for name, _ in whole.named_children() if not hasattr(model, name)],
        "norm_eps": {
            name: part.eps
            for name, part in model.named_modules()
            if isinstance(part, LayerNorm) and part.eps != usual[name]
        },
    }


class PlainExport(NamedTuple):
    """Settings and training state of a plain export."""

    config: Config
    state: TrainingState
    """state of the run that trained it, at the exported checkpoint"""
    adopted: Mapping[str, Any] = {}
    """of weights of others: `absent`, parts that they lack; `norm_eps`, epsilons of LayerNorms"""


def write_description(
    folder: Path, config: Config, state: TrainingState, adopted: Mapping[str, Any] | None = None
) -> None:
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
    if adopted:
        content["adopted"] = dict(adopted)
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
        settings, adopted = dict(content["config"]), dict(content.get("adopted", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    return PlainExport(parse_recorded_config(settings, str(path)), state, adopted)


def load_plain(folder: str | Path) -> tuple[Config, Objective, TrainingState]:
    """Load the model of a plain export, in evaluation mode, on the CPU.

    Raises UserError where `folder` is not a plain export, is damaged, or has an unknown
    objective.
    """
    folder = Path(folder)
    config, state, adopted = read_description(folder)
    objective = build_objective(with_kept_stage(config, folder))
    for name in adopted.get("absent", []):
        delattr(objective, name)
    for name, eps in adopted.get("norm_eps", {}).items():
        objective.get_submodule(name).eps = eps
    load_model(folder, objective)
    return config, objective.eval(), state
