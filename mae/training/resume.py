"""Going on where a run stands, and leaving it where it can go on."""

import shutil

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from mae.data.manifest import Manifest
from mae.errors import RunFailed, UserError
from mae.objective import Objective
from mae.training.checkpoint import (
    Position,
    load_model,
    load_optimizer,
    newest_checkpoint,
    save_checkpoint,
)
from mae.training.run import Run


def restore(
    run: Run,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    manifest: Manifest,
    accelerator: Accelerator,
) -> tuple[int, list[str]]:
    """Load the newest intact checkpoint, if there is one: the step to go on from, and notes.

    The first process chooses for all.  Raises UserError where the data is not that of the
    checkpoint, or another process sees other data or no such checkpoint (folders that are not
    shared between machines).
    """
    found = newest_checkpoint(run.checkpoints) if accelerator.is_main_process else None
    damaged = found.damaged if found else {}
    chosen = [found and found.path.name, found and found.position, manifest.fingerprint]
    name, position, fingerprint = broadcast_object_list(chosen)
    if fingerprint != manifest.fingerprint:
        raise UserError("data.train: not the same samples on all machines")
    if position:
        path = run.checkpoints / name
        if position.data != manifest.fingerprint:
            raise UserError(
                f"data.train: not the samples that {path} was trained on "
                f"(fingerprint {manifest.fingerprint[:16]}, then {position.data[:16]})"
            )
        if not path.is_dir():
            raise UserError(f"output: {run.folder} is not the same folder on all machines")
        load_model(path, objective)
        load_optimizer(path, objective, optimizer)
    step = position.step if position else 0
    if accelerator.is_main_process:
        run.rewind_metrics(step)
        for leftover in [*damaged, *run.checkpoints.glob("*.tmp")]:
            shutil.rmtree(leftover)  # written again when the run gets there
    return step, [f"damaged {reason}; going on from {name}" for reason in damaged.values()]


def save(
    run: Run,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    position: Position,
    keep_last: int,
    is_main: bool,
) -> None:
    """Write a checkpoint; RunFailed where the weights are not worth it or the disk is full.

    All processes call it, the first one writes.  The weights are the same on all of them, so all
    of them stop, or none.
    """
    if not all(parameter.isfinite().all() for parameter in objective.parameters()):
        raise RunFailed(f"step {position.step}: the weights are not finite; nothing was saved")
    if not is_main:
        return
    try:
        save_checkpoint(run.checkpoints, objective, optimizer, position, keep_last)
    except (OSError, SafetensorError) as error:
        raise RunFailed(
            f"step {position.step}: {run.checkpoints} takes no checkpoint: {error}; "
            "the ones before are intact, and the same command continues from there"
        ) from error
