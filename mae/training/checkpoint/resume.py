"""Resuming: load weights, their average and optimizer state, on any number of processes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mae.base.errors import UserError
from mae.base.files import discard
from mae.data.manifest import Manifest
from mae.objectives.base import Objective
from mae.training.checkpoint.average import MovingAverage, local
from mae.training.checkpoint.checkpoint_files import (
    MOMENTS,
    WEIGHTS,
    TrainingState,
    newest_checkpoint,
    unreadable_error,
)
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import delete_after, keep_newest_damaged
from mae.training.checkpoint.snapshot import AVERAGE, GROUP, GROUP_STATE, NUMBER_TYPES, shard_like

PYTHON_TYPES = {kind.__name__: kind for kind in NUMBER_TYPES}
"""name → Python type of the numbers in optimizer.safetensors"""


def load_model(path: Path, model: nn.Module, *, averaged: bool = False) -> None:
    """Load the weights of a checkpoint; names and shapes of model and file must match.

    `averaged`: load the moving average where the file has one, for evaluation and export.  Every
    process reads the file, and loads its own shards if the model is sharded.  Raises UserError
    where the weights do not fit, StorageError where the file cannot be read.
    """
    own = model.state_dict()
    try:
        tensors = load_file(path / WEIGHTS)
        averages = {name: tensors.pop(key) for name, key in _averaged(tensors, own).items()}
        if averaged:
            tensors |= averages
        parts = {name: shard_like(tensor, own.get(name)) for name, tensor in tensors.items()}
        model.load_state_dict(parts, strict=True)
        if isinstance(model, Objective):
            model.after_load()
    except OSError as error:
        raise unreadable_error(path / WEIGHTS, error) from None
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def _averaged(names: Iterable[str], own: Mapping[str, object]) -> dict[str, str]:
    """Map the name of each weight to the name of its average in a file.

    A model may have a module of its own called `average`, whose weights are not averages.
    Earlier versions averaged the encoder alone, under names without `encoder.`.
    """
    averages = {}
    for key in names:
        if key.startswith(AVERAGE) and key not in own:
            name = key.removeprefix(AVERAGE)
            of_encoder = f"encoder.{name}"
            averages[of_encoder if name not in own and of_encoder in own else name] = key
    return averages


def load_average(path: Path, model: nn.Module, average: MovingAverage | None) -> None:
    """Load the moving average of the weights, to continue it.

    Raises UserError where only one of file and run has an average, or where it does not fit the
    model; StorageError where the file cannot be read.
    """
    try:
        with safe_open(path / WEIGHTS, "pt") as file:
            found = _averaged(file.keys(), model.state_dict())
            if bool(found) != (average is not None):
                content = "a moving average" if found else "no moving average"
                setting = "0" if found else "above 0"
                raise UserError(
                    f"{path}: holds {content} of the weights, but train.ema is {setting}: resume "
                    "with train.ema as it was, or start a new run (init.from takes the weights)"
                )
            if average is None:
                return
            own = average.tensors()
            if odd := set(found) ^ own.keys():
                raise UserError(f"{path}: the averaged weights do not fit this model: {min(odd)}")
            for name, tensor in own.items():
                whole = file.get_tensor(found[name])
                if whole.shape != tensor.shape or whole.dtype != tensor.dtype:
                    is_not = f"{list(whole.shape)}, not {list(tensor.shape)}"
                    raise UserError(f"{path}: {found[name]} has shape {is_not}")
                local(tensor).copy_(local(shard_like(whole, tensor)))
    except OSError as error:
        raise unreadable_error(path / WEIGHTS, error) from None
    except SafetensorError as error:
        reason = f"{WEIGHTS} is not readable: {error}"
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def load_optimizer(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the optimizer state; the file must have it for every trainable parameter.

    A sharded model must be sharded already, with `optimizer` built on its shards.  Raises
    UserError where the state does not fit, StorageError where the file cannot be read.
    """
    try:
        tensors = load_file(path / MOMENTS)
    except OSError as error:
        raise unreadable_error(path / MOMENTS, error) from None
    except SafetensorError as error:
        raise UserError(f"{path}: {MOMENTS} is not readable: {error}") from None
    names = {parameter: name for name, parameter in model.named_parameters()}
    packed = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, group in enumerate(packed["param_groups"]):
        for key in [key for key in tensors if key.endswith(f"/{GROUP}{number}")]:
            group[GROUP_STATE] = _value(key.partition("/")[0], tensors.pop(key))[1]
    kinds = {key.partition("/")[0] for key in tensors}

    def take(kind: str, parameter: nn.Parameter) -> tuple[str, object]:
        key = f"{kind}/{names[parameter]}"
        whole = tensors.pop(key)
        if not whole.ndim:  # a count of steps
            return _value(kind, whole)
        if whole.shape != parameter.shape:
            shapes = f"{list(whole.shape)}, not {list(parameter.shape)}"
            raise UserError(f"{path}: {MOMENTS}: {key} has shape {shapes}")
        return kind, shard_like(whole, parameter)

    try:
        packed["state"] = {
            number: dict(take(kind, parameter) for kind in kinds)
            for number, parameter in enumerate(parameters)
        }
    except KeyError as error:
        raise UserError(f"{path}: {MOMENTS} lacks {error}") from None
    if tensors:
        raise UserError(f"{path}: {MOMENTS} holds unknown {next(iter(tensors))}")
    optimizer.load_state_dict(packed)


def _value(kind: str, tensor: Tensor) -> tuple[str, object]:
    """Kind and value as the optimizer stores them: for kind `step:int` a Python int."""
    kind, _, name = kind.partition(":")
    return kind, PYTHON_TYPES[name](tensor.item()) if name in PYTHON_TYPES else tensor


class ResumeResult(NamedTuple):
    """State that a run resumes from, and messages for the user."""

    state: TrainingState
    notes: list[str]


def resume(
    run: Run,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    manifest: Manifest,
    accelerator: Accelerator,
    before: int | None = None,
    average: MovingAverage | None = None,
) -> ResumeResult:
    """Load the newest intact checkpoint, if any; with `before`, the newest of an earlier step.

    Without a checkpoint, `average` restarts at the current weights.

    All processes call it, while no checkpoint is being written, and after `accelerator.prepare`:
    a sharded optimizer accepts its state only then.  The main process chooses the checkpoint; it
    rewinds the run folder to that step, and keeps the newest damaged checkpoint after it as
    step-….damaged.

    Raises UserError, and changes nothing, where
    - the checkpoint was trained on other data,
    - processes see different data or run folders (not shared between machines),
    - a checkpoint cannot be read or is of a newer version,
    - no intact checkpoint is earlier than `before`,
    - only one of checkpoint and run has a moving average (train.ema).
    """
    found, problem = None, None
    if accelerator.is_main_process:
        try:
            found = newest_checkpoint(run.checkpoints, before, run.id)
            if before is not None and found is None:
                problem = f"{run.checkpoints}: no checkpoint before step {before:,} to roll back to"
        except UserError as error:
            problem = str(error)
    damaged = found.damaged if found else {}
    chosen = [
        problem,
        found and found.path.name,
        found and found.state,
        manifest.fingerprint,
        run.id,
    ]
    problem, name, state, fingerprint, run.id = broadcast_object_list(chosen)
    if problem:
        raise UserError(problem)
    if fingerprint != manifest.fingerprint:
        raise UserError("data.train: not the same samples on all machines")
    if state:
        path = run.checkpoints / name
        if not manifest.is_recorded_as(state.data):
            raise UserError(
                f"data.train: not the samples that {path} was trained on "
                f"(fingerprint {manifest.fingerprint[:16]}, then {state.data[:16]}): contents and "
                "order of the shards must be the same, their names need not; restore data.train, "
                "or choose another output for a new run"
            )
        if not path.is_dir():
            raise UserError(f"output: {run.folder} is not the same folder on all machines")
        load_average(path, objective, average)
        load_model(path, objective)
        load_optimizer(path, objective, optimizer)
    elif average is not None:
        average.restart()
    state = state or TrainingState(0, 0, manifest.fingerprint, run=run.id)
    kept = None
    if accelerator.is_main_process:
        run.rewind_metrics(state.step)
        kept = keep_newest_damaged(run.checkpoints, damaged)
        delete_after(run.checkpoints, state.step)  # written again when the run reaches them
        for leftover in run.checkpoints.glob("*.tmp"):
            discard(leftover)
    accelerator.wait_for_everyone()  # before other processes read the folder
    notes = [
        f"damaged {reason}; "
        f"{f'kept as {kept.name}' if kept and kept.stem == path.name else 'deleted'}"
        f"; resuming from {name}"
        for path, reason in damaged.items()
    ]
    return ResumeResult(state, notes)
