"""Weights, their average and optimizer state from a checkpoint, for any number of processes."""

import shutil
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
from mae.data.manifest import Manifest
from mae.objectives.base import Objective
from mae.training.checkpoint.average import Average, local
from mae.training.checkpoint.files import (
    MOMENTS,
    WEIGHTS,
    TrainingState,
    newest_checkpoint,
    unreadable,
)
from mae.training.checkpoint.run import Run
from mae.training.checkpoint.saver import forget_after, set_aside
from mae.training.checkpoint.snapshot import AVERAGE, GROUP, GROUP_STATE, NUMBERS, shard_like

TYPES = {kind.__name__: kind for kind in NUMBERS}


def load_model(path: Path, model: nn.Module, *, averaged: bool = False) -> None:
    """Load the weights; every tensor of model and file must match.

    `averaged`: the averaged ones instead, where the file has them: for evaluation and export.
    Every process reads the file; of a sharded model it takes its own part.
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
        raise unreadable(path / WEIGHTS, error) from None
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def _averaged(names: Iterable[str], own: Mapping[str, object]) -> dict[str, str]:
    """Weight → the name of its average in a file.

    A model may itself have a part of the name `average`, whose weights these are not.  Earlier
    versions averaged the encoder alone, and left its name out.
    """
    averages = {}
    for key in names:
        if key.startswith(AVERAGE) and key not in own:
            name = key.removeprefix(AVERAGE)
            of_encoder = f"encoder.{name}"
            averages[of_encoder if name not in own and of_encoder in own else name] = key
    return averages


def load_average(path: Path, model: nn.Module, average: Average | None) -> None:
    """Load the moving average of the weights, to go on with it.

    UserError where the file has none but the run does, or the reverse, or where it is of other
    weights.
    """
    try:
        with safe_open(path / WEIGHTS, "pt") as file:
            found = _averaged(file.keys(), model.state_dict())
            if bool(found) != (average is not None):
                there = "a moving average" if found else "no moving average"
                wanted = "0" if found else "above 0"
                raise UserError(
                    f"{path}: holds {there} of the weights, but train.ema is {wanted}: resume "
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
        raise unreadable(path / WEIGHTS, error) from None
    except SafetensorError as error:
        reason = f"{WEIGHTS} is not readable: {error}"
        raise UserError(f"{path}: the weights do not fit this model: {reason}") from None


def load_optimizer(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the optimizer's state; every trainable parameter must have its own.

    A sharded model takes its own part; it must be sharded by now, and `optimizer` be its own.
    """
    try:
        tensors = load_file(path / MOMENTS)
    except OSError as error:
        raise unreadable(path / MOMENTS, error) from None
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
    """Kind and value as the optimizer has them: of `step:int` a number of Python."""
    kind, _, name = kind.partition(":")
    return kind, TYPES[name](tensor.item()) if name in TYPES else tensor


class Resumed(NamedTuple):
    """Where the run goes on, and what there is to tell."""

    state: TrainingState
    notes: list[str]


def resume(
    run: Run,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    manifest: Manifest,
    accelerator: Accelerator,
    before: int | None = None,
    average: Average | None = None,
) -> Resumed:
    """Load the newest intact checkpoint, if there is one; with `before`, one of an earlier step.

    Without one, `average` begins at the weights as they are now.

    All processes call it, when nothing is being written, and after `accelerator.prepare`: the
    optimizer of a sharded model takes its state only then.  The first process chooses for all;
    it rewinds the run folder to the step that was chosen, and of damaged checkpoints that are
    newer keeps the newest, as step-….damaged.  Raises UserError, and leaves all as it was, where
    the data is not that of the checkpoint, or another process sees other data or no such
    checkpoint (folders that are not shared between machines), where one is met that cannot be
    read or is of a newer version, where no intact one is as early as asked, or where it has a
    moving average and the run has none (train.ema), or the reverse.
    """
    found, problem = None, None
    if accelerator.is_main_process:
        try:
            found = newest_checkpoint(run.checkpoints, before)
            if before is not None and found is None:
                problem = (
                    f"{run.checkpoints}: no checkpoint of before step {before:,} to go back to"
                )
        except UserError as error:
            problem = str(error)
    damaged = found.damaged if found else {}
    chosen = [problem, found and found.path.name, found and found.state, manifest.fingerprint]
    problem, name, state, fingerprint = broadcast_object_list(chosen)
    if problem:
        raise UserError(problem)
    if fingerprint != manifest.fingerprint:
        raise UserError("data.train: not the same samples on all machines")
    if state:
        path = run.checkpoints / name
        if state.data != manifest.fingerprint:
            raise UserError(
                f"data.train: not the samples that {path} was trained on "
                f"(fingerprint {manifest.fingerprint[:16]}, then {state.data[:16]})"
            )
        if not path.is_dir():
            raise UserError(f"output: {run.folder} is not the same folder on all machines")
        load_average(path, objective, average)
        load_model(path, objective)
        load_optimizer(path, objective, optimizer)
    elif average is not None:
        average.restart()
    state = state or TrainingState(0, 0, manifest.fingerprint)
    kept = None
    if accelerator.is_main_process:
        run.rewind_metrics(state.step)
        kept = set_aside(run.checkpoints, damaged)
        forget_after(run.checkpoints, state.step)  # written again when the run gets there
        for leftover in run.checkpoints.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
    accelerator.wait_for_everyone()  # all read in the folder what the first has left there
    notes = [
        f"damaged {reason}; {f'kept as {kept.name}' if kept and kept.stem == path.name else 'gone'}"
        f"; going on from {name}"
        for path, reason in damaged.items()
    ]
    return Resumed(state, notes)
